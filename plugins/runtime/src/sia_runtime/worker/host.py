"""The state that one machine keeps between batches: loaded tasks, verifier processes, and harnesses that are set up."""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_core.harness import Manifest
from sia_core.learning import Learner
from sia_core.plugins import Plugins
from sia_core.run.ledger import canonical
from sia_core.run.rollouts import Setting, Sweep
from sia_core.run.trees import ADAPTERS, Trees
from sia_core.types import Instance, OfferRef, Split, Task
from sia_runtime.reporting import report
from sia_runtime.sandbox.contract import Sandbox
from sia_runtime.worker.harness_folder import harness_folder
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest, SolveResult
from sia_runtime.worker.policy import BringsPolicy, Policy
from sia_runtime.worker.search_scoring import Evaluations
from sia_runtime.worker.verifier_process import VerifierProcess

PATIENCE = 16
"""Instances of one batch that may time out before a hasty sweep is given up."""

WARM_HARNESSES = 6

LABORATORY = Path(__file__).with_name("laboratory")
"""The harness that runs code as an experiment."""


class Host:
    """The state that one machine keeps between batches. Safe to use from several threads."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._mutex = threading.Lock()
        self._building = threading.Lock()  # of a policy, which takes longer than others should wait
        self._tasks: dict[str, Task] = {}
        self._instances: dict[tuple[str, str], dict[str, Instance]] = {}
        self._verifiers: dict[str, VerifierProcess] = {}
        self._evaluations: dict[VerifierProcess, Evaluations] = {}
        self._policies: dict[str, Any] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._workers: OrderedDict[tuple[str, ...], _Warm] = OrderedDict()
        self._experiments: OrderedDict[tuple[str, str], tuple[tuple[str, ...], HarnessWorker]] = OrderedDict()
        self._experimenting: Counter[tuple[str, str]] = Counter()
        self._stopped = False

    def task(self, ref: OfferRef) -> Task:
        """The loaded task of an offer and its settings."""
        key = canonical(asdict(ref))
        with self._mutex:
            if key not in self._tasks:
                self._tasks[key] = self.plugins.create("task", ref.name, **ref.settings)
            return self._tasks[key]

    def instances(self, ref: OfferRef, split: Split) -> dict[str, Instance]:
        """The instances of a split by id."""
        task, key = self.task(ref), (canonical(asdict(ref)), split)
        with self._mutex:
            if key not in self._instances:
                self._instances[key] = {each.id: each for each in task.instances(split)}
            return self._instances[key]

    def verifier(self, setting: Setting, *, sealed: bool) -> VerifierProcess:
        """The verifier's process for this run; the one for sealed instances is another."""
        key = canonical([asdict(setting.task), asdict(setting.verifier), setting.sandbox, sealed, setting.secret])
        with self._mutex:
            if key not in self._verifiers:
                self._verifiers[key] = VerifierProcess(
                    setting.task, setting.verifier, setting.sandbox, sealed=sealed, secret=setting.secret
                )
                if self._stopped:
                    self._verifiers[key].close()
            return self._verifiers[key]

    def evaluations(self, setting: Setting) -> Evaluations:
        """The scorer for harnesses that are still searching; never on sealed instances."""
        verifier = self.verifier(setting, sealed=False)
        with self._mutex:
            if verifier not in self._evaluations:
                self._evaluations[verifier] = Evaluations(verifier)
            return self._evaluations[verifier]

    def learner(self, ref: OfferRef) -> Learner:
        """A learner by its offer; its settings are its configuration."""
        learner: Learner = self.plugins.create("algorithm", ref.name, **ref.settings)
        return learner

    def policy(self, setting: Setting) -> Any:
        """The run's policy, built on first use; None where the run has none."""
        if setting.engine is None:
            return None
        key = canonical([setting.run, asdict(setting.engine)])
        with self._building:
            if key not in self._policies:
                engine = self.plugins.create("engine", setting.engine.name, **setting.engine.settings)
                run = Path(setting.run)
                brings = isinstance(engine, BringsPolicy)
                self._policies[key] = engine.open_policy(run) if brings else Policy(engine, run / ADAPTERS)
                if self._stopped:
                    self._policies[key].close()
            return self._policies[key]

    def solve(
        self, setting: Setting, sweep: Sweep, task: Task, requests: Sequence[SolveRequest]
    ) -> tuple[dict[str, SolveResult], str]:
        """Solve requests with a harness that is set up, on first use, and kept warm for a while.

        The results by key, and why a hasty sweep should be given up, or an empty string.
        """
        solved: dict[str, SolveResult] = {}
        with self._warm(setting, sweep) as warm, warm.mutex:
            if warm.worker is None:
                warm.worker = self._set_up(setting, sweep, task)
                with self._mutex:
                    if self._stopped:  # while it was set up, so that `stop` did not see it
                        warm.worker.close()
            if not warm.gives_up(sweep):
                timeouts = 0
                with closing(warm.worker.solve(requests)) as results:
                    for result in results:
                        solved[result.key] = result
                        report(solved=len(solved))
                        timeouts += result.outcome == "timeout"
                        if sweep.hasty and timeouts >= PATIENCE:
                            warm.given_up[sweep.purpose] = sweep.batch
                            break
            if not warm.gives_up(sweep):
                return solved, ""
        why = f"{PATIENCE} instances of one batch timed out, so the rest was not run"
        keys = [request.key for request in requests if request.key not in solved]
        return solved | {key: SolveResult(key, "timeout", message=f"not run: {why}") for key in keys}, why

    @contextmanager
    def experiments(
        self, setting: Setting, place: str, requires: tuple[str, ...], seconds: float
    ) -> Iterator[HarnessWorker]:
        """The sandbox in which a conversation has code run: its own one, or a new one for other libraries.

        It is kept at least as long as the ``with`` block lasts.
        """
        task, sandbox = self.task(setting.task), self._sandbox(setting.sandbox)
        key, ended = (setting.run, place), []
        with self._mutex:
            libraries, worker = self._experiments.get(key, ((), None))
            if worker is None or libraries != requires:
                ended += [worker] if worker else []
                limits = replace(task.limits, solve_seconds=seconds)
                worker = HarnessWorker(
                    sandbox, LABORATORY, Manifest(requires=requires), task.public_dir(("public",)), limits
                )
                self._experiments[key] = requires, worker
                ended += [worker] if self._stopped else []
            self._experiments.move_to_end(key)
            self._experimenting[key] += 1
            # Of conversations whose end another machine was told of.
            idle = [each for each in self._experiments if not self._experimenting[each]]
            over = idle[: max(0, len(self._experiments) - WARM_HARNESSES)]
            ended += [self._experiments.pop(each)[1] for each in over]
        try:
            for each in ended:
                each.close()
            yield worker
        finally:
            with self._mutex:
                self._experimenting -= Counter([key])

    def end_experiments(self, setting: Setting, place: str) -> None:
        """End the sandbox of a conversation's experiments, if it has one here."""
        with self._mutex:
            _, worker = self._experiments.pop((setting.run, place), ((), None))
        if worker is not None:
            worker.close()

    def forget(self, setting: Setting, sweep: Sweep) -> None:
        """End the sandbox of a sweep's harness, of which nothing more will be asked."""
        with self._mutex:
            warm = self._workers.pop(_place(setting, sweep), None)
        if warm is not None and warm.worker is not None:
            warm.worker.close()

    def stop(self) -> None:
        """Kill sandboxes and verifiers, so that jobs that wait for one end."""
        with self._mutex:
            self._stopped = True
            workers = [warm.worker for warm in self._workers.values() if warm.worker]
            workers += [worker for _, worker in self._experiments.values()]
            verifiers = list(self._verifiers.values())
            policies = list(self._policies.values())
            evaluations = list(self._evaluations.values())
        for each in evaluations:
            each.close()
        for policy in policies:
            policy.close()
        for worker in workers:
            worker.close()
        for verifier in verifiers:
            verifier.close()

    @contextmanager
    def _warm(self, setting: Setting, sweep: Sweep) -> Iterator[_Warm]:
        """The harness's place, which is kept at least until the caller is done with it."""
        key = _place(setting, sweep)
        with self._mutex:
            warm = self._workers.setdefault(key, _Warm())
            self._workers.move_to_end(key)
            warm.users += 1
            idle = [each for each, other in self._workers.items() if not other.users]
            evicted = [self._workers.pop(each) for each in idle[: max(0, len(self._workers) - WARM_HARNESSES)]]
        warm.once &= sweep.once
        try:
            for other in evicted:
                if other.worker:
                    other.worker.close()
            yield warm
        finally:
            with self._mutex:
                warm.users -= 1
                over = warm.once and not warm.users and self._workers.pop(key, None) is warm
            if over and warm.worker:
                warm.worker.close()

    def _sandbox(self, name: str) -> Sandbox:
        """A sandbox by its name, one for all: it may keep what makes its next start cheap."""
        with self._mutex:
            if name not in self._sandboxes:
                self._sandboxes[name] = self.plugins.create("sandbox", name)
            return self._sandboxes[name]

    def _set_up(self, setting: Setting, sweep: Sweep, task: Task) -> HarnessWorker:
        run, policy = Path(setting.run), self.policy(setting)
        return HarnessWorker(
            self._sandbox(setting.sandbox),
            harness_folder(run, sweep.harness),
            Trees(run).get(sweep.harness).manifest,
            task.public_dir(sweep.public),
            task.limits,
            model=policy.gateway if policy else None,
            judge=self.evaluations(setting) if task.kind == "discover" else None,
            rows=getattr(getattr(policy, "engine", None), "rows", 0),
        )


def _place(setting: Setting, sweep: Sweep) -> tuple[str, ...]:
    """The key of a harness that is set up."""
    return setting.run, sweep.harness, setting.sandbox, *sweep.public


@dataclass
class _Warm:
    """A harness that is set up, or is going to be; used by one batch at a time.

    ``given_up`` holds, by purpose, the first batch that timed out too often. It ends with its last user
    where all of their sweeps were to run ``once``.
    """

    worker: HarnessWorker | None = None
    mutex: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    once: bool = True
    given_up: dict[str, int] = field(default_factory=dict)

    def gives_up(self, sweep: Sweep) -> bool:
        """Whether this batch or one before it timed out too often. How fast a later one was must not matter."""
        return sweep.hasty and sweep.batch >= self.given_up.get(sweep.purpose, math.inf)
