"""Running a harness over instances: batches of rollouts, each solved in a sandbox and scored by the verifier.

A batch is the job that a backend runs and the step that the ledger records.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sia_core.errors import LedgerError
from sia_core.evidence import Rollout
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.sandbox import SolveRequest
from sia_core.types import Backend, Instance, Job, OfferRef, Split
from sia_core.verifying import Question

if TYPE_CHECKING:
    from sia_core.host import Host

BATCH = 64
"""Rollouts a step: what a kill may cost at most."""


class GivenUp(Exception):
    """A candidate timed out too often for its sweep to be worth its time. ``done`` is what it came to."""

    def __init__(self, why: str, done: Sequence[Rollout]) -> None:
        super().__init__(why)
        self.done = done


@dataclass(frozen=True)
class Setting:
    """What every batch of a run has in common, as JSON. ``run`` is the run's folder, which a worker must see."""

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

    A ``hasty`` sweep is given up when a batch of it times out too often. As a job's
    payload it is one ``batch`` of the whole, by its place.
    """

    purpose: str
    agent: str
    harness: str
    split: Split
    instances: tuple[str, ...]
    public: tuple[Split, ...] = ("public",)
    hasty: bool = False
    batch: int = 0

    def batches(self) -> list[tuple[str, tuple[str, ...]]]:
        """The steps of the sweep: key and instance ids."""
        parts = [self.instances[i : i + BATCH] for i in range(0, len(self.instances), BATCH)]
        return [(f"rollouts/{self.purpose}/{self.agent}/{index:04d}", part) for index, part in enumerate(parts)]


class Rollouts:
    """Runs sweeps on a backend, through the ledger: a batch that is recorded is not run again."""

    def __init__(self, setting: Setting, ledger: Ledger, backend: Backend, emit: Emitter) -> None:
        self._setting, self._ledger, self._backend, self._emit = setting, ledger, backend, emit

    def run(self, sweep: Sweep) -> list[Rollout]:
        """The rollouts of a sweep, in the order of its instances; GivenUp where a hasty one is.

        Batches run side by side and are looked at in their order, so that what comes
        of a sweep does not depend on which of them was the fastest.
        """
        self._emit("rollouts.started", purpose=sweep.purpose, agent=sweep.agent, total=len(sweep.instances))
        done: list[Rollout] = []
        running: deque[tuple[str, Future[Any] | None]] = deque()
        waiting = deque(enumerate(sweep.batches()))
        while waiting or running:
            while waiting and len(running) < self._backend.slots:
                index, (key, instances) = waiting.popleft()
                recorded = self._ledger.get(key)
                running.append((key, None if recorded else self._backend.submit(self._job(sweep, index, instances))))
            key, future = running.popleft()
            batch = self._ledger.step(key, future.result if future else _missing)
            done += [Rollout.from_json(each) for each in batch["rollouts"]]
            self._progress(sweep, done)
            if batch["given_up"]:
                wait([each for _, each in running if each])  # they end at once, and are not recorded
                raise GivenUp(batch["given_up"], done)
        return done

    def stop(self) -> None:
        """Stop the work that is under way; whoever waits for it gets an error."""
        self._backend.close()

    def _job(self, sweep: Sweep, index: int, instances: Sequence[str]) -> Job:
        part = replace(sweep, instances=tuple(instances), batch=index)
        return Job("sia_core.rollout:run_batch", {"setting": asdict(self._setting), "sweep": asdict(part)})

    def _progress(self, sweep: Sweep, done: Sequence[Rollout]) -> None:
        about = {"purpose": sweep.purpose, "agent": sweep.agent, "done": len(done), "total": len(sweep.instances)}
        if sweep.split != "sealed":
            about["mean"] = fmean(each.reward for each in done)
        self._emit("rollouts.progress", **about)


def _missing() -> Any:
    raise LedgerError("a step that was recorded has gone from the ledger")


def run_batch(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: solve every instance of a batch in the sandbox, then have the answers scored."""
    setting = Setting.from_json(payload["setting"])
    sweep = Sweep(**payload["sweep"])
    task = host.task(setting.task)
    known = host.instances(setting.task, sweep.split)
    instances = [known[name] for name in sweep.instances]
    requests = [_request(setting, each) for each in instances]
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


def _request(setting: Setting, instance: Instance) -> SolveRequest:
    shown: dict[str, Any] = {"id": instance.id, "input": dict(instance.input), "start": instance.start}
    return SolveRequest(instance.id, shown, instance_seed(setting.seed, instance))


def instance_seed(seed: int, instance: Instance) -> int:
    """The seed of a rollout: of the run and the instance, so that compared agents share it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{instance.split}/{instance.id}".encode()).digest()[:6])
