"""Running a harness over instances: batches of rollouts, each solved in a sandbox and scored by the verifier.

A batch is the job that a backend runs and the step that the ledger records. On a
worker machine a :class:`Host` keeps what is costly to make: loaded tasks, verifier
processes, and harnesses that are set up.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sia_core.evidence import Rollout
from sia_core.ledger import Ledger, canonical
from sia_core.observe import Emitter
from sia_core.plugins import Plugins
from sia_core.sandbox import HarnessWorker, SolveRequest, SolveResult
from sia_core.trees import Trees
from sia_core.types import Backend, Instance, Job, OfferRef, Split, Task
from sia_core.verifying import Question, VerifierProcess

BATCH = 64
"""Rollouts a step: what a kill may cost at most."""

PATIENCE = 16
"""Instances of one batch that may time out before a candidate is given up."""

WARM_HARNESSES = 6


class GivenUp(Exception):
    """A candidate timed out too often for its sweep to be worth its time. ``done`` rollouts were run."""

    def __init__(self, why: str, done: int) -> None:
        super().__init__(why)
        self.done = done


@dataclass(frozen=True)
class Setting:
    """What every batch of a run has in common; JSON, so that any machine can run one."""

    run: str
    task: OfferRef
    verifier: OfferRef
    sandbox: str
    seed: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setting:
        task, verifier = OfferRef(**value["task"]), OfferRef(**value["verifier"])
        return cls(value["run"], task, verifier, value["sandbox"], value["seed"])


@dataclass(frozen=True)
class Sweep:
    """One agent over some instances. ``purpose`` names the sweep in the ledger; ``public`` is what the set-up sees.

    A ``hasty`` sweep is given up when a batch of it times out too often.
    """

    purpose: str
    agent: str
    harness: str
    split: Split
    instances: tuple[str, ...]
    public: tuple[Split, ...] = ("public",)
    hasty: bool = False

    def batches(self) -> list[tuple[str, tuple[str, ...]]]:
        """The steps of the sweep: key and instance ids."""
        parts = [self.instances[i : i + BATCH] for i in range(0, len(self.instances), BATCH)]
        return [(f"rollouts/{self.purpose}/{self.agent}/{index:04d}", part) for index, part in enumerate(parts)]


class Rollouts:
    """Runs sweeps on a backend, through the ledger: a batch that is recorded is not run again."""

    def __init__(self, setting: Setting, ledger: Ledger, backend: Backend, emit: Emitter) -> None:
        self._setting, self._ledger, self._backend, self._emit = setting, ledger, backend, emit

    def run(self, sweep: Sweep) -> list[Rollout]:
        """The rollouts of a sweep, in the order of its instances; GivenUp where a hasty one is."""
        if given_up := self._ledger.get(_given_up(sweep)):
            raise GivenUp(**given_up[0])
        results: dict[str, list[Rollout]] = {}
        pending: dict[Future[Any], str] = {}
        waiting = iter(sweep.batches())
        todo = len(sweep.batches())
        while len(results) < todo:
            while len(pending) < self._backend.slots and (batch := next(waiting, None)):
                key, instances = batch
                if recorded := self._ledger.get(key):
                    results[key] = self._finished(sweep, recorded[0], results)
                else:
                    pending[self._backend.submit(self._job(sweep, instances))] = key
            if pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    key = pending.pop(future)
                    batch_now = self._ledger.record(key, future.result())
                    results[key] = self._finished(sweep, batch_now, results)
                    if why := batch_now["given_up"]:
                        self._give_up(sweep, why, results, pending)
        return [rollout for key, _ in sweep.batches() for rollout in results[key]]

    def _give_up(
        self, sweep: Sweep, why: str, results: dict[str, list[Rollout]], pending: dict[Future[Any], str]
    ) -> None:
        for future, key in pending.items():  # they are running already, so they are paid for
            results[key] = self._finished(sweep, self._ledger.record(key, future.result()), results)
        done = sum(map(len, results.values()))
        raise GivenUp(**self._ledger.record(_given_up(sweep), {"why": why, "done": done}))

    def _job(self, sweep: Sweep, instances: Sequence[str]) -> Job:
        part = replace(sweep, instances=tuple(instances))
        return Job("sia_core.rollout:run_batch", {"setting": asdict(self._setting), "sweep": asdict(part)})

    def _finished(self, sweep: Sweep, batch: Any, before: Mapping[str, list[Rollout]]) -> list[Rollout]:
        rollouts = [Rollout.from_json(each) for each in batch["rollouts"]]
        done = [each.reward for part in (*before.values(), rollouts) for each in part]
        if sweep.purpose != "sealed":
            self._emit(
                "rollouts.progress",
                purpose=sweep.purpose,
                agent=sweep.agent,
                done=len(done),
                total=len(sweep.instances),
                mean=sum(done) / len(done),
            )
        else:
            self._emit(
                "rollouts.progress", purpose="sealed", agent=sweep.agent, done=len(done), total=len(sweep.instances)
            )
        return rollouts


def run_batch(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: solve every instance of a batch in the sandbox, then have the answers scored."""
    setting = Setting.from_json(payload["setting"])
    sweep = Sweep(**payload["sweep"])
    task = host.task(setting.task)
    known = host.instances(setting.task, sweep.split)
    instances = [known[name] for name in sweep.instances]
    requests = [
        SolveRequest(each.id, {"id": each.id, "input": dict(each.input), "start": each.start}, seed)
        for each in instances
        for seed in [instance_seed(setting.seed, each)]
    ]
    solved, given_up = host.solve(setting, sweep, task, requests)
    rollouts: dict[str, Rollout] = {}
    questions = []
    for instance, request in zip(instances, requests, strict=True):
        result = solved[instance.id]
        rollouts[instance.id] = Rollout(
            instance=instance.id,
            outcome=result.outcome,
            reward=task.failure_reward,
            answer=result.answer,
            message=result.message,
            log=result.log,
            seconds=round(result.seconds, 6),
            step_rewards=tuple(result.step_rewards),
        )
        if result.outcome == "ok" and result.answer is not None:
            questions.append(Question(instance, result.answer, request.seed))
    verdicts = host.verifier(setting, sealed=sweep.split == "sealed").score(questions)
    for question, verdict in zip(questions, verdicts, strict=True):
        rollouts[question.instance.id] = replace(
            rollouts[question.instance.id],
            outcome=verdict.outcome,
            reward=verdict.score.reward,
            metrics=verdict.score.metrics,
            message=verdict.message,
            feedback=verdict.score.feedback,
        )
    return {
        "sandbox": setting.sandbox,
        "given_up": given_up,
        "rollouts": [rollouts[each.id].to_json() for each in instances],
    }


def _given_up(sweep: Sweep) -> str:
    return f"given-up/{sweep.purpose}/{sweep.agent}"


def instance_seed(seed: int, instance: Instance) -> int:
    """The seed of a rollout: of the run and the instance, so that compared agents share it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{instance.split}/{instance.id}".encode()).digest()[:6])


class Host:
    """What one machine keeps between batches. Safe to use from several threads."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._mutex = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._instances: dict[tuple[str, str], dict[str, Instance]] = {}
        self._verifiers: dict[str, VerifierProcess] = {}
        self._workers: OrderedDict[tuple[str, ...], _Warm] = OrderedDict()
        self._stopped = False

    def task(self, ref: OfferRef) -> Task:
        """The loaded task of an offer and its settings."""
        key = canonical(asdict(ref))
        with self._mutex:
            if key not in self._tasks:
                self._tasks[key] = self._plugins.create("task", ref.name, **ref.settings)
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
        key = canonical([asdict(setting.task), asdict(setting.verifier), setting.sandbox, sealed])
        with self._mutex:
            if key not in self._verifiers:
                self._verifiers[key] = VerifierProcess(setting.task, setting.verifier, setting.sandbox, sealed=sealed)
            return self._verifiers[key]

    def solve(
        self, setting: Setting, sweep: Sweep, task: Task, requests: Sequence[SolveRequest]
    ) -> tuple[dict[str, SolveResult], str]:
        """Solve requests with a harness that is set up, on first use, and kept warm for a while.

        The results by key, and why a hasty sweep should be given up, or an empty string.
        """
        warm = self._warm(setting, sweep, task)
        solved: dict[str, SolveResult] = {}
        timeouts = 0
        with warm.mutex, closing(warm.worker.solve(requests)) as results:
            for result in results:
                solved[result.key] = result
                timeouts += result.outcome == "timeout"
                if sweep.hasty and timeouts >= PATIENCE:
                    break
        if len(solved) == len(requests):
            return solved, ""
        why = f"{timeouts} of {len(solved)} instances timed out, so the rest was not run"
        left = [request.key for request in requests if request.key not in solved]
        return solved | {key: SolveResult(key, "timeout", message=f"not run: {why}") for key in left}, why

    def stop(self) -> None:
        """Kill sandboxes and verifiers, so that jobs that wait for one end."""
        with self._mutex:
            self._stopped = True
            for warm in self._workers.values():
                warm.worker.close()
            for verifier in self._verifiers.values():
                verifier.close()

    def _warm(self, setting: Setting, sweep: Sweep, task: Task) -> _Warm:
        key = (setting.run, sweep.harness, setting.sandbox, *sweep.public)
        with self._mutex:
            if self._stopped:
                raise RuntimeError("the backend is closed")
            if key not in self._workers:
                self._workers[key] = self._set_up(setting, sweep, task)
            self._workers.move_to_end(key)
            for old in [each for each in self._workers if each != key][: -WARM_HARNESSES + 1 or None]:
                if self._workers[old].mutex.acquire(blocking=False):
                    self._workers.pop(old).worker.close()
            return self._workers[key]

    def _set_up(self, setting: Setting, sweep: Sweep, task: Task) -> _Warm:
        trees = Trees(Path(setting.run))
        tree = trees.get(sweep.harness)
        worker = HarnessWorker(
            self._plugins.create("sandbox", setting.sandbox),
            trees.folder(sweep.harness),
            tree.manifest,
            task.public_dir(sweep.public),
            task.limits,
        )
        return _Warm(worker)


class _Warm:
    """A harness that is set up, used by one batch at a time."""

    def __init__(self, worker: HarnessWorker) -> None:
        self.worker = worker
        self.mutex = threading.Lock()
