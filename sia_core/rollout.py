"""Running a harness over instances: batches of rollouts, each solved in a sandbox and scored by the verifier.

A batch is the job that a backend runs and the step that the ledger records.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sia_core.errors import LedgerError, TrainingError
from sia_core.evidence import Rollout
from sia_core.gateway import Record
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.perturbation import perturb
from sia_core.policy import Policy
from sia_core.sandbox import SolveRequest, SolveResult
from sia_core.types import Backend, Instance, Job, OfferRef, Split
from sia_core.verifying import INVALID, Question, Verdict

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
    engine: OfferRef | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setting:
        offers = {name: value[name] and OfferRef(**value[name]) for name in ("task", "verifier", "engine")}
        return cls(**{**value, **offers})


@dataclass(frozen=True)
class Sweep:
    """One agent over some instances. ``purpose`` names the sweep in the ledger; ``public`` is what the set-up sees.

    A ``hasty`` sweep is given up when a batch of it times out too often. A ``training``
    sweep samples from the policy as it learns, each instance ``group`` times, ``distinct``
    ones without replacement. A ``perturbed`` one shows each instance in its other guise.
    As a job's payload it is one ``batch`` of the whole, by its place.
    """

    purpose: str
    agent: str
    harness: str
    split: Split
    instances: tuple[str, ...]
    public: tuple[Split, ...] = ("public",)
    hasty: bool = False
    batch: int = 0
    adapter: str | None = None
    group: int = 1
    training: bool = False
    distinct: bool = False
    perturbed: bool = False

    def batches(self) -> list[tuple[str, tuple[str, ...]]]:
        """The steps of the sweep: key and instance ids."""
        size = max(1, BATCH // self.group)
        parts = [self.instances[i : i + size] for i in range(0, len(self.instances), size)]
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

    def job(self, function: str, payload: Mapping[str, Any]) -> Any:
        """Run another job of this run's on the backend; its result."""
        return self._backend.submit(Job(function, {"setting": asdict(self._setting), **payload})).result()

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


@dataclass(frozen=True)
class Rolled:
    """A rollout, and what the policy was asked in it, if it was: by which weights, in which tokens."""

    rollout: Rollout
    record: Record | None
    weights: str


def run_batch(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: solve every instance of a batch in the sandbox, then have the answers scored."""
    setting, sweep = Setting.from_json(payload["setting"]), Sweep(**payload["sweep"])
    policy = host.policy(setting)
    with policy.holding(sweep.adapter) if policy else nullcontext():
        rolled, given_up = roll_out(setting, sweep, host)
    return {
        "sandbox": setting.sandbox,
        "given_up": given_up,
        "rollouts": [each.rollout.to_json() for each in rolled],
    }


def roll_out(setting: Setting, sweep: Sweep, host: Host) -> tuple[list[Rolled], str]:
    """The rollouts of a batch, in the order of its instances; and why the sweep is given up, or an empty string."""
    task = host.task(setting.task)
    known: Mapping[str, Instance] = host.instances(setting.task, sweep.split)
    if sweep.perturbed:
        known = {name: perturb(task, known[name]) for name in sweep.instances}
    requests = [each for name in sweep.instances for each in _requests(setting, sweep, known[name])]
    instances = [known[name] for name in sweep.instances for _ in range(sweep.group)]
    policy = host.policy(setting)
    weights = policy.version if policy else ""
    solved, given_up = host.solve(setting, sweep, task, requests)
    questions = [
        Question(instance, answer, request.seed)
        for instance, request in zip(instances, requests, strict=True)
        if (answer := solved[request.key].answer) is not None and solved[request.key].outcome == "ok"
    ]
    verdicts = iter(host.verifier(setting, sealed=sweep.split == "sealed").score(questions))
    rolled = []
    for instance, request in zip(instances, requests, strict=True):
        result = solved[request.key]
        record = policy.gateway.finish(request.key) if policy else None
        rollout = _rollout(
            instance, result, task.failure_reward, record, told=sweep.split == "search" and not sweep.training
        )
        if result.outcome == "ok" and result.answer is not None:
            rollout = _judged(rollout, next(verdicts))
        rolled.append(Rolled(rollout, record, weights))
    return rolled, given_up


def _rollout(instance: Instance, result: SolveResult, failure: float, record: Record | None, told: bool) -> Rollout:
    """What is known before the verifier's word. Only rollouts that an improver may read are ``told`` at length."""
    return Rollout(
        instance=instance.id,
        outcome=result.outcome,
        reward=failure,
        answer=result.answer,
        message=result.message,
        log=result.log,
        seconds=round(result.seconds, 6),
        step_rewards=tuple(result.step_rewards),
        tokens=record.prompt_tokens + record.sampled_tokens if record else 0,
        turns=tuple(record.turns) if record and told else (),
    )


def _judged(rollout: Rollout, verdict: Verdict) -> Rollout:
    return replace(
        rollout,
        outcome=verdict.outcome,
        reward=verdict.score.reward,
        metrics=verdict.score.metrics,
        message=verdict.message,
        feedback=verdict.score.feedback,
    )


def _requests(setting: Setting, sweep: Sweep, instance: Instance) -> Iterator[SolveRequest]:
    """What is asked of an instance: once, or once for each member of its group."""
    shown: dict[str, Any] = {"id": instance.id, "input": dict(instance.input), "start": instance.start}
    for member in range(sweep.group):
        apart = 0 if sweep.distinct else member
        salt = f"{sweep.purpose}/{apart}" if sweep.training else ""
        yield SolveRequest(
            key=f"{sweep.purpose}/{sweep.agent}/{instance.id}/{member}",
            instance=shown,
            seed=instance_seed(setting.seed, instance, salt),
            group=sweep.group,
            training=sweep.training,
            place=member if sweep.distinct else None,
        )


def instance_seed(seed: int, instance: Instance, salt: str = "") -> int:
    """The seed of a rollout: of the run and the instance, so that compared agents share it.

    In training, where nothing is compared, ``salt`` makes the members of a group differ,
    but for those that are drawn together, without replacement.
    """
    text = f"{seed}/{instance.split}/{instance.id}" + (f"/{salt}" if salt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def verified(rollouts: Sequence[Rollout]) -> int:
    """How many of them the verifier, or the answer's model, had to judge."""
    return sum(each.outcome in ("ok", INVALID) for each in rollouts)


def policy_of(setting: Setting, host: Host) -> Policy:
    """The run's policy on this machine; TrainingError where the run has none to train."""
    policy = host.policy(setting)
    if not isinstance(policy, Policy):
        raise TrainingError("this run has no policy to train")
    return policy
