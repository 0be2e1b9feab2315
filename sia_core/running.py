"""Starting a run and going on with one: from a configuration to the parts that the loop works with."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_core import __version__
from sia_core.approval import Approval, Rules, answer
from sia_core.budget import Budget, Limit
from sia_core.candidate import Parts
from sia_core.desk import Equipped
from sia_core.discovering import Discovers
from sia_core.errors import HarnessError, LedgerError, PluginError, SandboxError, UsageError
from sia_core.gate import betting_wealth
from sia_core.ledger import Ledger, canonical, started_at
from sia_core.loop import Loop
from sia_core.observe import Emitter, Observer
from sia_core.plan import EVALUATED, Plan, check_budget, take_samples
from sia_core.plugins import Plugins, Source
from sia_core.rollout import Rollouts, Setting
from sia_core.sandbox import choose, examine
from sia_core.trees import Trees
from sia_core.types import Backend, OfferRef, Task
from sia_core.verifying import VerifierProcess
from sia_core.weights import WeightLever

LEVERS = ("harness", "weights")


@dataclass(frozen=True)
class Config:
    """All that determines a run, beside the recorded results of its steps. ``engine`` is the policy's, or None."""

    task: OfferRef
    plan: Plan = field(default_factory=Plan)
    improver: str = "playbook"
    verifier: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    sandbox: str | None = None
    allow_weak_sandbox: bool = False
    backend: str = "local"
    backend_settings: Mapping[str, Any] = field(default_factory=dict)
    engine: OfferRef | None = None
    improver_settings: Mapping[str, Any] = field(default_factory=dict)
    approve: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Config:
        plan = Plan(**{**value["plan"], "levers": tuple(value["plan"]["levers"])})
        engine = OfferRef(**value["engine"]) if value["engine"] else None
        return cls(**{**value, "task": OfferRef(**value["task"]), "plan": plan, "engine": engine})


def new_folder(runs: Path, name: str) -> Path:
    """Claim the next free folder for a run of this task: ``runs/lawbench-1``, ``-2`` and so on."""
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            try:
                (runs / f"{stem}-{number}").mkdir()
                return runs / f"{stem}-{number}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UsageError(f"--runs-dir {runs}: {error.strerror}") from None


def named_folder(runs: Path, name: str) -> Path:
    """Claim the folder of a run that its user named."""
    if re.sub(r"[^\w.-]+", "-", name).strip("-.") != name:
        raise UsageError(
            f"--name {name!r}: a run's name holds letters, digits and . _ - alone, and begins with no mark"
        )
    try:
        (runs / name).mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--name {name}: {runs / name} exists; go on with it by `sia resume {name}`") from None
    except OSError as error:
        raise UsageError(f"--runs-dir {runs}: {error.strerror}") from None
    return runs / name


def start(config: Config, runs: Path, plugins: Plugins, observers: Sequence[Observer], name: str | None = None) -> Path:
    """Check all that can be checked, then start a run. Returns its folder when it is finished."""
    config, task, sandbox = checked(config, plugins)
    with ExitStack() as stack:
        backend = backend_of(config, plugins)  # before there is a folder: a service may refuse
        stack.callback(backend.close)
        folder = new_folder(runs, task.name) if name is None else named_folder(runs, name)
        ledger = stack.enter_context(Ledger.create(folder))
        metric = {"name": task.metric.name, "direction": task.metric.direction}
        about = {
            "task": task.name,
            "kind": task.kind,
            "metric": metric,
            "fingerprint": fingerprint(task),
            "version": __version__,
        }
        ledger.record("run", {"config": asdict(config), **about})
        ledger.record("sandbox", sandbox)
        _drive(config, task, ledger, backend, plugins, observers)
    return folder


def checked(config: Config, plugins: Plugins) -> tuple[Config, Task, dict[str, Any]]:
    """All that can be checked before a run: its configuration as it is recorded, its task, and its sandbox."""
    config, task = workable(config, plugins)
    samples = take_samples(task, config.plan)
    check_budget(samples, samples.look(explores="weights" in config.plan.levers), Limit(config.budget))
    sandbox = choose_sandbox(config, plugins)
    verifier = VerifierProcess(config.task, verifier_of(config, task), sandbox["name"])
    try:
        verifier.check()
    finally:
        verifier.close()
    return config, task, sandbox


def workable(config: Config, plugins: Plugins) -> tuple[Config, Task]:
    """The configuration as a run records it, and its task; UsageError where no run can work with them."""
    config = replace(config, verifier=_absolute(config.verifier))
    _check(config, plugins)
    task = task_of(config, plugins)
    check_task(task, config.plan)
    return config, task


def resume(folder: Path, plugins: Plugins, observers: Sequence[Observer], approved: bool | None = None) -> None:
    """Go on with a run from its last finished step; a finished one is left as it is.

    ``approved`` is a person's word on what the run waits for, if one was given.
    """
    with Ledger.open(folder) as ledger:
        recorded = beginning(ledger)
        if approved is not None:
            answer(ledger, approved)
        if ledger.get("finished"):
            return
        if recorded["version"] != __version__:
            raise LedgerError(
                f"{folder} was started with sia-core {recorded['version']}, and this is {__version__}: a run must "
                f"be finished by the version that started it, since another may decide otherwise"
            )
        config = Config.from_json(recorded["config"])
        _check(config, plugins)
        task = task_of(config, plugins)
        if fingerprint(task) != recorded["fingerprint"]:
            raise LedgerError(
                f"{folder}: data, brief or catalogue of task {task.name!r} are not those that the run started with. "
                "Put them back to go on, or start a new run."
            )
        if sandbox := ledger.get("sandbox"):
            check_sandbox(sandbox[0], plugins)
        backend = backend_of(config, plugins)
        try:
            _drive(config, task, ledger, backend, plugins, observers)
        finally:
            backend.close()


def beginning(ledger: Ledger) -> dict[str, Any]:
    """How a run was started: its first step. LedgerError where it was stopped before that."""
    recorded = ledger.get("run")
    if recorded is None:
        raise LedgerError(f"{ledger.folder} was stopped before its first step; start it again with `sia run`")
    started: dict[str, Any] = recorded[0]
    return started


def task_of(config: Config, plugins: Plugins) -> Task:
    """The run's task."""
    task: Task = plugins.create("task", config.task.name, **config.task.settings)
    return task


def _check(config: Config, plugins: Plugins) -> None:
    """Refuse, before anything is made or spent, what cannot work."""
    plan = config.plan
    unknown = [lever for lever in plan.levers if lever not in LEVERS]
    if unknown or not plan.levers:
        raise UsageError(f"--levers: {', '.join(unknown) or 'none'}; the levers are {' and '.join(LEVERS)}")
    if plan.repeats < 1:
        raise UsageError("--repeats: each instance is asked at least once")
    Rules.parse(config.approve)
    if "weights" in plan.levers and config.engine is None:
        raise UsageError("the weights lever needs a policy to train; name one, such as --policy tiny")
    if config.engine:
        plugins.find("engine", config.engine.name)
    improver = plugins.create("improver", config.improver, **config.improver_settings)
    if isinstance(improver, Equipped):
        improver.check()
    plugins.find("backend", config.backend)
    if config.verifier:
        plugins.find("verifier", config.verifier.partition(":")[0])


def fingerprint(task: Task) -> str:
    """Of all that a run reads from its task beside the hidden labels."""
    playbook = task.playbook()
    catalogue = playbook.model_dump(mode="json") if playbook else None
    return hashlib.sha256(canonical([task.fingerprint, task.brief, catalogue]).encode()).hexdigest()


def check_task(task: Task, plan: Plan) -> None:
    """Refuse a task on which no run can work, before there is a folder for one."""
    missing = [name for name in Task.__annotations__ if not hasattr(task, name)]
    if missing:
        raise PluginError(f"the task {type(task).__qualname__} lacks {', '.join(missing)} (see sia_core.types.Task)")
    if task.metric.direction != "maximize":
        raise UsageError(f"task {task.name!r}: this version runs tasks whose metric is maximised")
    if task.kind == "discover" and (not isinstance(task, Discovers) or task.evaluations < 1):
        raise PluginError(
            f"the task {type(task).__qualname__} is of kind 'discover', which takes `evaluations`, at least 1, and "
            "`artefact` (see sia_core.discovering.Discovers)"
        )
    low, high = task.metric.bounds or (-math.inf, math.inf)
    if not low < high or not low <= task.failure_reward <= high:
        raise UsageError(f"task {task.name!r}: bounds {task.metric.bounds} do not hold its failure reward")
    _check_splits(task)
    try:
        _ = task.seed_harness().manifest
    except HarnessError as error:
        raise UsageError(f"the harness that task {task.name!r} starts from: {error}") from None
    gate = len(task.instances("gate"))
    if plan.generations and betting_wealth([1.0] * gate) < 1 / plan.alpha:
        needed = next(n for n in range(gate, 10_000) if betting_wealth([1.0] * n) >= 1 / plan.alpha)
        raise UsageError(
            f"task {task.name!r} has {gate} instances on the gate, too few to show any gain in {plan.comparisons} "
            f"comparisons: at least {needed} are needed, and more to see small gains. "
            "Give more cases, or measure only, with --generations 0"
        )


def _check_splits(task: Task) -> None:
    """The splits are disjoint, by id and by input, and none is empty."""
    seen: dict[str, str] = {}
    for split in EVALUATED:
        instances = task.instances(split)
        if not instances:
            raise UsageError(f"task {task.name!r} has no instance in its {split!r} split")
        for instance in instances:
            for mark in (instance.id, canonical(dict(instance.input))):
                if seen.setdefault(mark, split) != split:
                    raise UsageError(
                        f"task {task.name!r}: instance {instance.id} is in {seen[mark]!r} and, by id or by input, "
                        f"in {split!r} too; the splits must be disjoint"
                    )


def _drive(
    config: Config, task: Task, ledger: Ledger, backend: Backend, plugins: Plugins, observers: Sequence[Observer]
) -> None:
    core = Source("core", "sia-core", __version__)
    emit = Emitter([*((core, each) for each in observers), *plugins.observers])
    sandbox = ledger.step("sandbox", lambda: choose_sandbox(config, plugins))
    parts = parts_of(config, task, ledger, Trees(ledger.folder), backend, plugins, emit)
    loop = Loop(config.plan, parts)
    emit(
        "run.started",
        run=ledger.folder.name,
        task=task.name,
        generations=config.plan.generations,
        sandbox=sandbox,
        budget=dict(config.budget),
        gate=len(loop.samples.gate),
        sealed=len(loop.samples.sealed),
    )
    loop.improve()


def backend_of(config: Config, plugins: Plugins) -> Backend:
    """Where the run's work runs."""
    backend: Backend = plugins.create("backend", config.backend, plugins=plugins, **config.backend_settings)
    return backend


def parts_of(
    config: Config, task: Task, ledger: Ledger, trees: Trees, backend: Backend, plugins: Plugins, emit: Emitter
) -> Parts:
    """What the loop works with, around a ledger that knows the run's sandbox; also for a replay."""
    sandbox = ledger.step("sandbox", lambda: choose_sandbox(config, plugins))
    setting = setting_of(config, task, ledger.folder, sandbox["name"])
    rollouts, budget = Rollouts(setting, ledger, backend, emit), Budget(Limit(config.budget))
    weights = None
    if "weights" in config.plan.levers:
        can = ledger.step("policy", lambda: rollouts.job("sia_core.train:abilities", {}))
        weights = WeightLever(frozenset(can), len(task.instances("search")), plugins, rollouts, ledger, budget, emit)
    improver = plugins.create("improver", config.improver, **config.improver_settings)
    approval = Approval(Rules.parse(config.approve), ledger, budget) if config.approve else None
    return Parts(task, improver, rollouts, ledger, trees, budget, emit, weights, approval)


def setting_of(config: Config, task: Task, folder: Path, sandbox: str) -> Setting:
    """What the batches of a run in this folder have in common."""
    verifier = verifier_of(config, task)
    return Setting(str(folder.resolve()), config.task, verifier, sandbox, config.plan.seed, config.engine)


def choose_sandbox(config: Config, plugins: Plugins) -> dict[str, Any]:
    """The strongest sandbox that works here, or the one that the run names; and what it does not guarantee."""
    if config.sandbox:
        offered = [plugins.create("sandbox", config.sandbox)]
    else:
        offered = []
        for offer in plugins.of_kind("sandbox"):
            with suppress(PluginError):  # nobody asked for that one; `sia doctor` shows it
                offered.append(plugins.create("sandbox", offer.name))
    chosen = choose(offered, allow_weak=config.allow_weak_sandbox)
    return {"name": chosen.name, "lacks": sorted(chosen.lacks)}


def check_sandbox(recorded: Mapping[str, Any], plugins: Plugins) -> None:
    """A run goes on only in a sandbox that guarantees here what it did where the run started."""
    (found,) = examine([plugins.create("sandbox", recorded["name"])])
    if weaker := sorted(found.lacks.keys() - set(recorded["lacks"])):
        reasons = "; ".join(f"{name}: {found.lacks[name]}" for name in weaker)
        raise SandboxError(f"sandbox {found.name!r} guarantees less here than where the run started: {reasons}")


def _absolute(verifier: str | None) -> str | None:
    """``command:...`` with the files that it names by their full paths, so that a resumed run finds them."""
    name, colon, command = (verifier or "").partition(":")
    if name != "command" or not colon:
        return verifier
    with suppress(ValueError):  # what is wrong with its quotes, the verifier itself says
        words = [os.path.abspath(word) if os.path.isfile(word) else word for word in shlex.split(command)]
        return f"command:{shlex.join(words)}"
    return verifier


def verifier_of(config: Config, task: Task) -> OfferRef:
    """The task's verifier, or the one that the run names: ``NAME``, or ``NAME:ARG`` for one that takes an argument."""
    if config.verifier is None:
        return task.verifier
    name, colon, argument = config.verifier.partition(":")
    return OfferRef(name, {**task.verifier.settings, **({"arg": argument} if colon else {})})


def runs_in(folder: Path) -> list[Path]:
    """The runs of a folder, the newest last."""
    found = [path for path in folder.glob("*") if (path / "ledger.db").is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda path: (started_at(path), path.name))


def find_run(runs: Path, name: str | None) -> Path:
    """A run by its name or path; the newest where no name is given."""
    if name is None:
        newest = runs_in(runs)
        if not newest:
            raise UsageError(f"no run in {runs}; start one with `sia run --plugin NAME`, or give --runs-dir")
        return newest[-1]
    for path in (runs / name, Path(name)):
        if (path / "ledger.db").is_file():
            return path
    known = ", ".join(path.name for path in runs_in(runs)[-5:]) or "none"
    raise UsageError(f"no run {name!r} in {os.fspath(runs)}; the last ones there: {known}")
