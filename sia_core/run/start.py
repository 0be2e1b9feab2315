"""Starting a run and going on with one: from a configuration to the parts that the loop works with."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from sia_core import __version__
from sia_core.advice import advice
from sia_core.errors import LedgerError, PluginError, SiaError, UsageError
from sia_core.plugins import Plugins, Source
from sia_core.run import record
from sia_core.run.approval import Approval, Rules, answer
from sia_core.run.budget import Budget, Limit
from sia_core.run.gate import MOST_EARNED
from sia_core.run.ledger import Ledger, canonical, readable
from sia_core.run.levers import Lever
from sia_core.run.loop import Loop
from sia_core.run.observe import Emitter, Observer
from sia_core.run.parts import Parts
from sia_core.run.plan import Plan, check_budget, take_samples
from sia_core.run.record import RunRecord
from sia_core.run.rollouts import Rollouts, Setting, new_secret
from sia_core.run.run_folders import new_folder
from sia_core.run.run_view import Equipped
from sia_core.run.secret import SECRET, keep_secret, read_secret
from sia_core.run.task_checks import check_task
from sia_core.run.trees import Trees
from sia_core.run.trust import confirm, effects, remember
from sia_core.types import Backend, Job, OfferRef, Task

ABILITIES = "sia_runtime.worker.preflight:abilities"


@dataclass(frozen=True)
class Config:
    """All that determines a run, beside the recorded results of its steps.

    ``engine`` is the policy's, or None; ``lever_settings`` are those of levers, by their names.
    """

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
    lever_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Config:
        plan = Plan(**{"earned": None, **value["plan"], "levers": tuple(value["plan"]["levers"])})
        engine = OfferRef(**value["engine"]) if value["engine"] else None
        return cls(**{**value, "task": OfferRef(**value["task"]), "plan": plan, "engine": engine})


def start(
    config: Config,
    runs: Path,
    plugins: Plugins,
    observers: Sequence[Observer],
    name: str | None = None,
    secret: str | None = None,
) -> Path:
    """Check all that can be checked, then start a run. Returns its folder when it is finished.

    Its verifier draws by ``secret``, a new one by default. An error before any answer was scored leaves no run.
    """
    secret = secret or new_secret()
    config, task = checked(config, plugins)
    with ExitStack() as stack:
        backend = stack.enter_context(closing(backend_of(config, plugins)))
        sandbox = prepare(config, task, backend, secret)  # before there is a folder: backend and verifier may refuse
        folder = new_folder(runs, task.name, name)
        ledger = stack.enter_context(Ledger.create(folder))
        about = {
            "task": task.name,
            "kind": task.kind,
            "metric": asdict(task.metric),
            "verifier": verifier_of(config, task).name,
            "fingerprint": fingerprint(task),
            "version": __version__,
        }
        started: dict[str, Any] = {"config": asdict(config), **about}
        keep_secret(folder / SECRET, secret)
        if effects(started["config"]):
            remember(started)
        ledger.record(record.RUN, started)
        ledger.record(record.SANDBOX, sandbox)
        try:
            _drive(config, task, ledger, secret, backend, plugins, observers)
        except LedgerError:  # such as a full disk: the run goes on when that is mended
            raise
        except SiaError:  # a run that got no further than its smoke run, with no paid call and no person's word
            beyond = any(batch.purpose != "smoke" for batch in RunRecord(ledger).batches())
            if not beyond and not any(record.is_beside(key) for key, _, _ in ledger.events()):
                ledger.close()
                shutil.rmtree(folder)
            raise
    return folder


def checked(config: Config, plugins: Plugins) -> tuple[Config, Task]:
    """A workable configuration and its task; UsageError also where its budget is too small."""
    config, task = workable(config, plugins)
    samples = take_samples(task, config.plan)
    levers = levers_of(config.plan.levers, plugins, config.lever_settings)
    check_budget(samples, samples.look(levers.values()), Limit(config.budget))
    return config, task


def prepare(config: Config, task: Task, backend: Backend, secret: str) -> dict[str, Any]:
    """The sandbox that the backend chose, once the run's verifier has started there."""
    setting = replace(setting_of(config, task, Path(), "", secret), run="", engine=None)
    payload = {"setting": asdict(setting), "sandbox": config.sandbox, "allow_weak": config.allow_weak_sandbox}
    sandbox: dict[str, Any] = backend.submit(Job("sia_runtime.worker.preflight:prepare", payload)).result()
    return sandbox


def workable(config: Config, plugins: Plugins) -> tuple[Config, Task]:
    """The configuration as a run records it, and its task; UsageError where no run can work with them."""
    _check(config, plugins)
    task = task_of(config, plugins)
    check_task(task, config.plan)
    return config, task


def resume(
    folder: Path, plugins: Plugins, observers: Sequence[Observer], approved: bool | None = None, trust: bool = False
) -> None:
    """Go on with a run from its last finished step; a finished one is left as it is.

    ``approved`` is a person's word on what the run waits for, if one was given. One that this
    user did not start does what acts on the world only with ``trust``.
    """
    with Ledger.open(folder) as ledger:
        recorded, finished = beginning(ledger), ledger.get(record.FINISHED)
        if not finished:
            if recorded["version"] != __version__:
                raise LedgerError(
                    f"{folder} was started with sia-core {recorded['version']}, and this is {__version__}: a run must "
                    f"be finished by the version that started it, since another may decide otherwise"
                )
            config = recorded_config(recorded, folder)
            if config.plan.earned is None:
                raise LedgerError(
                    f"{folder} was begun with an earlier gate, and cannot go on with this one; start a new run"
                )
            confirm(folder, recorded, asdict(config), trust)
        if approved is not None:
            answer(ledger, approved)
        if finished:
            return
        _check(config, plugins)
        task = task_of(config, plugins)
        if fingerprint(task) != recorded["fingerprint"]:
            raise LedgerError(
                f"{folder}: data, brief or catalogue of task {task.name!r} are not those that the run started with. "
                "Put them back to go on, or start a new run."
            )
        secret = read_secret(folder / SECRET)
        with closing(backend_of(config, plugins)) as backend:
            if sandbox := ledger.get(record.SANDBOX):
                payload = {"recorded": sandbox[0], "allow_weak": config.allow_weak_sandbox}
                with readable(folder):
                    backend.submit(Job("sia_runtime.worker.preflight:recheck", payload)).result()
            with readable(folder, ledger):
                _drive(config, task, ledger, secret, backend, plugins, observers)


def beginning(ledger: Ledger) -> dict[str, Any]:
    """How a run was started: its first step. LedgerError where it was stopped before that."""
    recorded = ledger.get(record.RUN)
    if recorded is None:
        raise LedgerError(f"{ledger.folder} was stopped before its first step; start it again with `sia run`")
    started: dict[str, Any] = recorded[0]
    with readable(ledger.folder):
        if not all(isinstance(started[key], str) for key in ("task", "fingerprint", "version")):
            raise TypeError("task, fingerprint and version of a run are texts")
    return started


def recorded_config(started: Mapping[str, Any], folder: Path) -> Config:
    """The configuration that a run recorded; LedgerError where this version cannot read it."""
    try:
        config = Config.from_json(started["config"])
        TypeAdapter(Config).validate_python(started["config"])
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise LedgerError(
            f"{folder}: sia-core {__version__} cannot read the configuration of a run "
            f"of sia-core {started.get('version')}: {type(error).__name__}: {error}"
        ) from None
    return config


def task_of(config: Config, plugins: Plugins) -> Task:
    """The run's task."""
    task: Task = plugins.create("task", config.task.name, **config.task.settings)
    return task


def _check(config: Config, plugins: Plugins) -> None:
    """Refuse, before anything is made or spent, what cannot work."""
    plan = config.plan
    for name, lever in levers_of(plan.levers, plugins, config.lever_settings).items():
        if lever.exclusive and config.engine is None:
            raise UsageError(f"the {name} lever needs a policy to train; name one with --policy")
    if plan.repeats < 1:
        raise UsageError("--repeats: each instance is asked at least once")
    if plan.earned is None or not 0 <= plan.earned <= MOST_EARNED:
        raise UsageError(f"--gate: a promotion earns an error from 0 to {MOST_EARNED:g}, not {plan.earned}")
    _rules(config, plugins)
    if config.engine:
        plugins.find("engine", config.engine.name)
    improver = plugins.create("improver", config.improver, **config.improver_settings)
    if isinstance(improver, Equipped):
        improver.check()
    plugins.find("backend", config.backend)
    if config.verifier:
        plugins.find("verifier", config.verifier.partition(":")[0])


def levers_of(
    names: Sequence[str], plugins: Plugins, settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Lever]:
    """New levers by name, with their settings; UsageError where one is not offered."""
    offered = sorted({offer.name for offer in plugins.of_kind("lever")})
    unknown = [name for name in names if name not in offered]
    if unknown or not names:
        raise UsageError(f"--levers: {', '.join(unknown) or 'none'}; the levers are {', '.join(offered)}")
    levers = {name: plugins.create("lever", name, **settings.get(name, {})) for name in names}
    for name, lever in levers.items():
        if not isinstance(lever, Lever):
            raise PluginError(f"lever {name!r} is a {type(lever).__name__}, and must be a sia_core.run.levers.Lever")
    return levers


def _rules(config: Config, plugins: Plugins) -> Rules:
    """The rules by which a person is asked."""
    return Rules.parse(config.approve, sorted({offer.name for offer in plugins.of_kind("lever")}))


def fingerprint(task: Task) -> str:
    """Of all that a run reads from its task beside the hidden labels."""
    playbook = task.playbook()
    catalogue = playbook.model_dump(mode="json") if playbook else None
    return hashlib.sha256(canonical([task.fingerprint, task.brief, catalogue]).encode()).hexdigest()


def _drive(
    config: Config,
    task: Task,
    ledger: Ledger,
    secret: str,
    backend: Backend,
    plugins: Plugins,
    observers: Sequence[Observer],
) -> None:
    core = Source("core", "sia-core", __version__)
    emit = Emitter([*((core, each) for each in observers), *plugins.observers], task.metric.direction)
    parts = parts_of(config, task, ledger, Trees(ledger.folder), backend, plugins, emit, secret)
    loop = Loop(config.plan, parts)
    if config.engine:  # a policy that cannot be loaded is an error before anything is spent on the run
        parts.rollouts.job(ABILITIES, {})
    emit(
        "run.started",
        run=ledger.folder.name,
        task=task.name,
        verifier=verifier_of(config, task).name,
        levers=list(config.plan.levers),
        policy=config.engine.settings.get("policy", config.engine.name) if config.engine else None,
        improver=config.improver,
        seed=config.plan.seed,
        metric=asdict(task.metric),
        generations=config.plan.generations,
        sandbox=RunRecord(ledger).sandbox,
        budget=dict(config.budget),
        gate=len(loop.samples.gate),
        sealed=len(loop.samples.sealed),
        notices=advice("task", task),
    )
    loop.improve()


def backend_of(config: Config, plugins: Plugins) -> Backend:
    """Where the run's work runs."""
    backend: Backend = plugins.create("backend", config.backend, plugins=plugins, **config.backend_settings)
    return backend


def parts_of(
    config: Config,
    task: Task,
    ledger: Ledger,
    trees: Trees,
    backend: Backend,
    plugins: Plugins,
    emit: Emitter,
    secret: str,
) -> Parts:
    """The parts that the loop works with, around a ledger."""
    sandbox = ledger.step(record.SANDBOX, lambda: prepare(config, task, backend, secret))
    setting = setting_of(config, task, ledger.folder, sandbox["name"], secret)
    rollouts, budget = Rollouts(setting, ledger, backend, emit), Budget(Limit(config.budget))
    levers = levers_of(config.plan.levers, plugins, config.lever_settings)
    can: list[str] = []
    if any(lever.exclusive for lever in levers.values()):
        can = ledger.step(record.POLICY, lambda: rollouts.job(ABILITIES, {}))
    improver = plugins.create("improver", config.improver, **config.improver_settings)
    approval = Approval(_rules(config, plugins), ledger, budget) if config.approve else None
    return Parts(task, improver, rollouts, ledger, trees, budget, emit, approval, levers, plugins, frozenset(can))


def setting_of(config: Config, task: Task, folder: Path, sandbox: str, secret: str) -> Setting:
    """The setting that the jobs of a run in this folder share."""
    verifier, engine = verifier_of(config, task), config.engine
    return Setting(str(folder.resolve()), config.task, verifier, sandbox, config.plan.seed, engine, secret)


def verifier_of(config: Config, task: Task) -> OfferRef:
    """The task's verifier, or the one that the run names: ``NAME``, or ``NAME:ARG`` for one that takes an argument."""
    if config.verifier is None:
        return task.verifier
    name, colon, argument = config.verifier.partition(":")
    return OfferRef(name, {**task.verifier.settings, **({"arg": argument} if colon else {})})
