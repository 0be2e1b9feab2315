"""Checks of the machine that runs a run's code, before anything is made or spent: jobs of the run's backend."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sia_core.errors import PluginError, SandboxError
from sia_core.plugins import Plugins
from sia_core.run.rollouts import Setting
from sia_runtime.sandbox.choosing import choose, examine

if TYPE_CHECKING:
    from sia_runtime.worker.host import Host


def prepare(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: choose the run's sandbox, and start its verifier there, so that wrong settings are known at once."""
    sandbox = choose_sandbox(host.plugins, payload["sandbox"], allow_weak=payload["allow_weak"])
    setting = Setting.from_json({**payload["setting"], "sandbox": sandbox["name"]})
    host.verifier(setting, sealed=False).check()
    return sandbox


def recheck(payload: Mapping[str, Any], host: Host) -> None:
    """The job: check that the sandbox of a run which goes on guarantees here what it did where the run started."""
    check_sandbox(payload["recorded"], host.plugins, allow_weak=payload["allow_weak"])


def abilities(payload: Mapping[str, Any], host: Host) -> list[str]:
    """The job: load the run's engine; what it can do, sorted."""
    policy = host.policy(Setting.from_json(payload["setting"]))
    return sorted(policy.engine.can) if policy else []


def loaded(payload: Mapping[str, Any], host: Host) -> dict[str, float]:
    """The job: load the run's engine; what it says of an update of its policy, 0 where it does not say.

    ``suits`` is the number of rollouts that an update is worth, and ``memory`` the bytes that training takes at most.
    """
    policy = host.policy(Setting.from_json(payload["setting"]))
    trains = policy and "train" in policy.engine.can
    return {
        "suits": getattr(policy.engine, "rollouts", 0) if policy else 0,
        "memory": policy.engine.memory()["needed"] if trains else 0.0,
    }


def choose_sandbox(plugins: Plugins, name: str | None, *, allow_weak: bool) -> dict[str, Any]:
    """The sandbox of that name, by default the strongest that works here; with the guarantees that it lacks."""
    if name:
        offered = [plugins.create("sandbox", name)]
    else:
        offered = []
        for offer in plugins.of_kind("sandbox"):
            with suppress(PluginError):  # nobody asked for that one; `sia doctor` shows it
                offered.append(plugins.create("sandbox", offer.name))
    choice = choose(offered, allow_weak=allow_weak)
    return {"name": choice.name, "lacks": sorted(choice.lacks)}


def check_sandbox(recorded: Mapping[str, Any], plugins: Plugins, *, allow_weak: bool) -> None:
    """SandboxError where the recorded sandbox guarantees less here than where its run started.

    One without all that SIA asks for takes the word of a person, not that of a record: ``allow_weak``.
    """
    (examined,) = examine([plugins.create("sandbox", recorded["name"])])
    if weaker := sorted(examined.lacks.keys() - set(recorded["lacks"])):
        reasons = "; ".join(f"{name}: {examined.lacks[name]}" for name in weaker)
        raise SandboxError(f"sandbox {examined.name!r} guarantees less here than where the run started: {reasons}")
    if not (allow_weak or examined.usable):
        choose([examined.sandbox])  # which says what it lacks
