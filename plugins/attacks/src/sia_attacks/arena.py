"""Attacks on one sandbox, each beside honest candidates, by the road that the rollouts of a run take."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sia_attacks import stage
from sia_attacks.catalogue import Attack
from sia_core.errors import SandboxError, SiaError
from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.hookspecs import Offer
from sia_core.plugins import Plugins, Source
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.record import INVALID
from sia_core.run.rollouts import Rollouts, Setting, Sweep, new_secret
from sia_core.run.secret import SECRET, keep_secret
from sia_core.run.trees import Trees
from sia_core.types import OfferRef, Task
from sia_llm.quoting import fenced, outside
from sia_runtime.local import LocalBackend
from sia_runtime.sandbox.frames import OUTCOMES
from sia_runtime.worker.host import Host

KNOWN = OUTCOMES | {"setup-crash", "setup-timeout", INVALID}
POLICY = OfferRef("attacked-policy")

SHARED = b"""def total(given):
    return sum(given["numbers"])
"""
HONEST = b"""from shared import total


def solve(instance, ctx):
    return total(instance.input)
"""
HONEST_SECONDS = 30.0
"""As most attacks have: what takes so long here, a busy machine, is no attack's doing."""

_INSIDE = (Path(__file__).parent / "inside.py").read_bytes
_REPLY = re.compile(r"reply-[0-9a-f]{16}")
_SUPERVISOR_SECONDS = 5.0
_LOOKS = 10


@dataclass(frozen=True)
class Result:
    """The result of one attack: how it got through, empty where it was stopped, and its rollouts."""

    attack: Attack
    sandbox: str
    openings: tuple[str, ...]
    rollouts: tuple[Rollout, ...]

    @property
    def verdict(self) -> str:
        return "open" if self.openings else "stopped"

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The classes of its rollouts."""
        return tuple(sorted({each.outcome for each in self.rollouts}))


class Company:
    """The honest candidates of one run: one that stays, and a new one after each attack."""

    def __init__(self, rollouts: Rollouts, run: Path, ledger: Ledger, instances: tuple[str, ...]) -> None:
        self.run, self.ledger = run, ledger
        self._rollouts, self._instances, self._count = rollouts, instances, 0
        self._first = self._new()
        self.before = self._sweep("before", self._first)
        # Where nothing runs, everything would be stopped.
        for each in self.before.values():
            if each.outcome != "ok":
                raise SandboxError(f"even an honest harness fails in it: {each.outcome}: {each.message}")

    def disturbed(self) -> list[str]:
        """In what honest rollouts are not what they were before any attack."""
        changes: list[str] = []
        for place in ("beside it", "after it"):
            try:
                now = self._sweep(f"{place}-{self._count}", self._first if place == "beside it" else self._new())
            except SiaError as error:
                return [*changes, f"an honest candidate {place} cannot run: {error}"]
            for name, old in self.before.items():
                if _essence(now[name]) != _essence(old):
                    earned = f"{now[name].reward:g} ({now[name].outcome}) instead of {old.reward:g}"
                    changes.append(f"an honest candidate {place} earned {earned}")
        return changes

    def _new(self) -> str:
        """An honest candidate that was not there before; it has a file in common with every hostile one."""
        self._count += 1
        files = {"harness.py": HONEST, "shared.py": SHARED, "number.txt": f"{self._count}\n".encode()}
        return Trees(self.run).put(HarnessTree(files))

    def _sweep(self, purpose: str, harness: str) -> dict[str, Rollout]:
        rollouts = self._rollouts.run(Sweep(purpose, "honest", harness, "search", self._instances))
        return {each.instance: each for each in rollouts}


class Arena:
    """A sandbox with a task whose labels are hidden, and honest harnesses around each attack. Use it with ``with``."""

    def __init__(self, plugins: Plugins, sandbox: str) -> None:
        self.sandbox = sandbox
        source = Source("attacks", "sia-core", "")
        own = [
            ("task", Offer("cases", "the attacked task", f"{stage.__name__}:{stage.Attacked.__name__}"), source),
            ("engine", Offer(POLICY.name, "the attacked policy", f"{stage.__name__}:{stage.policy.__name__}"), source),
        ]
        others = [each for each in plugins.offers if (each[0], each[1].name) != ("task", "cases")]
        self._plugins = replace(plugins, offers=others + own)
        self._company: Company | None = None
        self._runs = 0
        self._secret = new_secret()

    def __enter__(self) -> Arena:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sia-arena-")))
            self._folder.chmod(0o755)
            # The task keeps copies of its cases there; those of the user's are no place for these.
            before = os.environ.get("XDG_CACHE_HOME")
            os.environ["XDG_CACHE_HOME"] = str(self._folder / "cache")
            stack.callback(_restore, "XDG_CACHE_HOME", before)
            text, self._hidden = stage.cases()
            (self._folder / "cases.jsonl").write_text(text)
            (self._folder / "honest").mkdir()
            self._backend = LocalBackend(self._plugins)
            stack.callback(self._backend.close)
            self._task: Task = self._plugins.create("task", "cases", **self._settings(HONEST_SECONDS))
            instances = sorted(self._task.instances("search"), key=stage.is_hidden)
            self._instances = tuple(each.id for each in instances)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.close()

    def meet(self, attack: Attack) -> Result:
        """Run an attack, with an honest harness before it, beside it and after it."""
        if self._company is None:
            self._company = self._new_run()
        company = self._company
        labels = [self._folder / "cases.jsonl", Path(self._task.verifier.settings["data"])]
        verifiers = _verifiers()
        with stage.staged(labels, self._hidden, company.run) as targets:
            rollouts, openings = self._attack(attack, company, targets, verifiers)
            openings += company.disturbed()
            openings += ["left a process"] if any(targets.marked() for _ in range(_LOOKS)) else []
            openings += targets.harmed()
            openings += [] if verifiers <= _verifiers() else ["killed the verifier"]
            planted = {**targets.secrets, "the secret that the verifier draws by": self._secret}
            for each in rollouts:
                openings += self._judged(attack, each, planted, company.before)
        openings += _overheard(rollouts)
        if openings:
            self._company = None  # what it has done to this run must not be the next one's
        return Result(attack, self.sandbox, tuple(dict.fromkeys(openings)), tuple(rollouts))

    def _attack(
        self, attack: Attack, company: Company, targets: stage.Stage, verifiers: set[int]
    ) -> tuple[list[Rollout], list[str]]:
        """The rollouts of the attack itself, its sandbox being gone when this returns; and what went wrong at that."""
        files = {
            "harness.py": attack.source,
            "harness.toml": f"stateless = {str(attack.stateless).lower()}\n".encode(),
            "inside.py": _INSIDE(),
            "shared.py": SHARED,
            "targets.json": json.dumps(targets.told(sorted(verifiers))).encode(),
            **{name: text.encode() for name, text in attack.files.items()},
        }
        tree = Trees(company.run).put(HarnessTree(files))
        hostile = self._rollouts(company.ledger, company.run, attack.seconds, POLICY if attack.policy else None)
        # From the end: those whose labels cannot be worked out come last.
        instances = self._instances[-attack.instances :]
        sweep = Sweep("attack", attack.name, tree, "search", instances)
        rollouts, openings = [], []
        try:
            rollouts = hostile.run(sweep)
            if attack.supervisor_dies:
                _kill(targets.supervisors())
                if not _gone(targets.marked):
                    openings.append("its processes live on without their supervisor")
        except SiaError as error:
            openings.append(f"the run failed: {error}")
        hostile.job(f"{__name__}:{forget.__name__}", {"sweep": asdict(sweep)})
        return rollouts, openings

    def _judged(
        self, attack: Attack, rollout: Rollout, planted: Mapping[str, str], before: Mapping[str, Rollout]
    ) -> list[str]:
        """Signs of success in one rollout of the attack."""
        texts = [rollout.answer or "", rollout.message, rollout.log, rollout.feedback]
        signs = [f"read {what}" for what, secret in planted.items() if any(secret in text for text in texts)]
        with suppress(ValueError, RecursionError):
            answer = json.loads(rollout.answer or "null")
            signs += [str(answer["open"])[:200]] if isinstance(answer, dict) and "open" in answer else []
        failure = self._task.metric.reward(self._task.failure_reward)
        deserved = before[rollout.instance].reward if attack.honest else failure
        if rollout.reward != deserved:
            signs.append(f"earned {rollout.reward:g} instead of {deserved:g}")
        if rollout.outcome not in KNOWN:
            signs.append(f"ended as {rollout.outcome!r}, which is no known outcome")
        signs += ["spoke to the improver outside of its fence"] if any(map(_escapes, texts)) else []
        return signs

    def _new_run(self) -> Company:
        self._runs += 1
        run = self._folder / f"run-{self._runs}"
        ledger = self._stack.enter_context(Ledger.create(run))
        keep_secret(run / SECRET, self._secret)
        return Company(self._rollouts(ledger, run, HONEST_SECONDS), run, ledger, self._instances)

    def _settings(self, seconds: float) -> dict[str, Any]:
        where = {"data": str(self._folder / "cases.jsonl"), "harness": str(self._folder / "honest")}
        return {**where, "seed": 0, "seconds": str(seconds)}

    def _rollouts(self, ledger: Ledger, run: Path, seconds: float, engine: OfferRef | None = None) -> Rollouts:
        task = OfferRef("cases", self._settings(seconds))
        setting = Setting(str(run), task, self._task.verifier, self.sandbox, 0, engine, self._secret)
        return Rollouts(setting, ledger, self._backend, Emitter())


def forget(payload: Mapping[str, Any], host: Host) -> None:
    """The job: end the sandbox of a sweep's harness."""
    host.forget(Setting.from_json(payload["setting"]), Sweep(**payload["sweep"]))


def _essence(rollout: Rollout) -> tuple[object, ...]:
    return rollout.outcome, rollout.reward, rollout.answer, rollout.message, rollout.log


def _escapes(text: str) -> bool:
    return outside(f"before\n{fenced(text, 'text')}\nafter") != "before\n\nafter"


def _overheard(rollouts: Sequence[Rollout]) -> list[str]:
    """Replies of the policy's that another rollout than the one that asked for them tells of."""
    owner = {reply: each.instance for each in rollouts for reply in _REPLY.findall(json.dumps(each.turns))}
    return [
        "read what the policy replied to another rollout"
        for each in rollouts
        for reply in _REPLY.findall(f"{each.answer} {each.message} {each.log}")
        if owner.get(reply, each.instance) != each.instance
    ]


def _verifiers() -> set[int]:
    """The verifiers' processes that this one has started."""
    processes = set()
    for process in stage.children():
        with suppress(OSError):
            if b"sia_runtime.worker.verifier_process" in Path(f"/proc/{process}/cmdline").read_bytes():
                processes.add(process)
    return processes


def _kill(processes: Sequence[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _gone(marked: Callable[[], list[int]]) -> bool:
    """Whether all of these end within a while."""
    for process in marked():
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(process)
            try:
                if not select.select([handle], [], [], _SUPERVISOR_SECONDS)[0]:
                    return False
            finally:
                os.close(handle)
    return not marked()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
