"""Running a harness over instances: batches of rollouts, each solved in a sandbox and scored by the verifier.

A batch is the job that a backend runs and the step that the ledger records.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sia_core.allowance import Allowance
from sia_core.errors import LedgerError, TrainingError
from sia_core.evidence import Rollout
from sia_core.gateway import Record
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.perturbation import perturb
from sia_core.policy import Policy
from sia_core.sandbox import SolveRequest, SolveResult
from sia_core.types import Backend, Instance, Job, Json, OfferRef, Split
from sia_core.verifying import INVALID, Question, Verdict

if TYPE_CHECKING:
    from sia_core.host import Host

BATCH = 64
"""Rollouts a step, or answers to score: what a kill may cost at most."""

SHARED = 2
"""Batches of an agent that are under way at once, at most, where tokens are handed out: shares depend on how many."""


class GivenUp(Exception):
    """A sweep is not gone on with: it timed out too often, or is ``short`` of tokens. ``done`` is what it came to."""

    def __init__(self, why: str, done: Sequence[Rollout], *, short: bool = False) -> None:
        super().__init__(why)
        self.done, self.short = done, short


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

    Each instance is rolled out ``group`` times, each time with a seed of its own. A ``hasty``
    sweep is given up when a batch of it times out too often. A ``training`` sweep samples
    from the policy as it learns, ``distinct`` rollouts without replacement. A ``perturbed``
    one shows each instance in its other guise. Each rollout may have ``evaluations`` answers
    scored, and begins with its instance's place in ``starts``, an earlier answer, if there are
    any. As a job's payload it is one ``batch`` of the whole, by its place, of which each
    rollout may use so many ``tokens``; None is no limit.
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
    tokens: int | None = None
    evaluations: int = 0
    starts: tuple[Json, ...] = ()

    def batches(self) -> list[tuple[str, Sweep]]:
        """The steps of the sweep: each with its key."""
        size = max(1, BATCH // (self.group * (1 + self.evaluations)))
        return [
            (f"rollouts/{self.purpose}/{self.agent}/{batch:04d}", self.part(first, first + size, batch))
            for batch, first in enumerate(range(0, len(self.instances), size))
        ]

    def part(self, first: int, last: int, batch: int = 0) -> Sweep:
        """The same sweep of some of its instances only."""
        return replace(self, instances=self.instances[first:last], starts=self.starts[first:last], batch=batch)

    @property
    def total(self) -> int:
        """The rollouts of the whole sweep."""
        return len(self.instances) * self.group


class Rollouts:
    """Runs sweeps on a backend, through the ledger: a batch that is recorded is not run again."""

    def __init__(self, setting: Setting, ledger: Ledger, backend: Backend, emit: Emitter) -> None:
        self._setting, self._ledger, self._backend, self._emit = setting, ledger, backend, emit

    def run(
        self,
        sweep: Sweep,
        allowance: Allowance | None = None,
        enough: Callable[[Sequence[Rollout]], bool] | None = None,
    ) -> list[Rollout]:
        """The rollouts of a sweep, in the order of its instances; GivenUp where a hasty one is, or tokens run out.

        Batches run side by side and are looked at in their order, so that what comes
        of a sweep does not depend on which of them was the fastest. Whether those so far are
        ``enough`` is asked after the first batch, the second, the fourth, the eighth and so
        on; none runs past a look, so how many run at once does not matter either.
        """
        self._emit("rollouts.started", purpose=sweep.purpose, agent=sweep.agent, total=sweep.total)
        allowance = allowance or Allowance()
        abreast = self._backend.slots if math.isinf(allowance.left) else min(self._backend.slots, SHARED)
        done: list[Rollout] = []
        gained = 0.0
        running: deque[tuple[str, Sweep, Future[Any] | None]] = deque()
        waiting = deque(sweep.batches())
        look = 1 if enough else len(waiting)
        while waiting or running:
            while waiting and waiting[0][1].batch < look and len(running) < abreast:
                key, part = waiting.popleft()
                tokens = allowance.share(part.total, min(abreast - len(running), 1 + len(waiting)))
                part = replace(part, tokens=tokens)
                recorded = self._ledger.get(key)
                running.append((key, part, None if recorded else self._backend.submit(self._job(part))))
            key, part, future = running.popleft()
            batch = self._ledger.step(key, future.result if future else _missing)
            rollouts = [Rollout.from_json(each) for each in batch["rollouts"]]
            done += rollouts
            gained += sum(each.reward for each in rollouts)
            peak, short = batch.get("peak", 0), batch.get("short", 0)
            allowance.settle(part.tokens, part.total, sum(each.tokens for each in rollouts), peak, short)
            self._progress(sweep, len(done), gained)
            out = f"{short} rollouts need more tokens than the {part.tokens} that are left for each" if short else ""
            if why := batch["given_up"] or (out if allowance.strict else ""):
                wait([each for _, _, each in running if each])  # they are not recorded; of timeouts, they end at once
                allowance.forfeit()
                raise GivenUp(why, done, short=not batch["given_up"])
            if enough and waiting and not running and waiting[0][1].batch == look:
                if enough(done):
                    break
                look *= 2
        return done

    @property
    def at_once(self) -> int:
        """The most rollouts of one sweep that are under way at once, where their tokens are counted."""
        return BATCH * min(self._backend.slots, SHARED)

    def stop(self) -> None:
        """Stop the work that is under way; whoever waits for it gets an error."""
        self._backend.close()

    def job(self, function: str, payload: Mapping[str, Any]) -> Any:
        """Run another job of this run's on the backend; its result."""
        return self._backend.submit(Job(function, {"setting": asdict(self._setting), **payload})).result()

    def _job(self, part: Sweep) -> Job:
        return Job("sia_core.rollout:run_batch", {"setting": asdict(self._setting), "sweep": asdict(part)})

    def _progress(self, sweep: Sweep, done: int, gained: float) -> None:
        about: dict[str, Any] = {"purpose": sweep.purpose, "agent": sweep.agent, "done": done, "total": sweep.total}
        if sweep.split != "sealed":
            about["mean"] = gained / done
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
        **needs(rolled),
    }


def needs(rolled: Sequence[Rolled]) -> dict[str, int]:
    """The share of tokens that the greediest rollout came to need, and how many ran out of theirs."""
    records = [each.record for each in rolled if each.record]
    return {
        "peak": max((each.peak for each in records), default=0),
        "short": sum(each.short for each in records),
    }


def roll_out(setting: Setting, sweep: Sweep, host: Host) -> tuple[list[Rolled], str]:
    """The rollouts of a batch, in the order of its instances; and why the sweep is given up, or an empty string."""
    task = host.task(setting.task)
    known: Mapping[str, Instance] = host.instances(setting.task, sweep.split)
    if sweep.perturbed:
        known = {name: perturb(task, known[name]) for name in sweep.instances}
    starts = sweep.starts or (None,) * len(sweep.instances)
    begun = [replace(known[name], start=start) for name, start in zip(sweep.instances, starts, strict=True)]
    requests = [each for instance in begun for each in _requests(setting, sweep, instance)]
    instances = [instance for instance in begun for _ in range(sweep.group)]
    judge = host.evaluations(setting) if sweep.evaluations else None
    for instance, request in zip(instances, requests, strict=True):
        if judge:
            judge.grant(request.key, instance, request.seed, request.evaluations)
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
        if judge:
            rollout = replace(rollout, evaluated=judge.finish(request.key))
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
        tokens=record.tokens if record else 0,
        turns=tuple(record.turns) if record and told else (),
        start=str(instance.start["id"]) if isinstance(instance.start, dict) else None,
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
        salt = f"{sweep.purpose}/{apart}" if sweep.training else f"repeat/{member}" if member else ""
        yield SolveRequest(
            key=f"{sweep.purpose}/{sweep.agent}/{instance.id}/{member}",
            instance=shown,
            seed=instance_seed(setting.seed, instance, salt),
            group=sweep.group,
            training=sweep.training,
            place=member if sweep.distinct else None,
            tokens=sweep.tokens,
            evaluations=sweep.evaluations,
        )


def instance_seed(seed: int, instance: Instance, salt: str = "") -> int:
    """The seed of a rollout: of the run and the instance, so that compared agents share it.

    ``salt`` makes the members of a group differ: repeats in the same way for every agent, those of
    training, where nothing is compared, each time anew, but for those that are drawn together,
    without replacement.
    """
    text = f"{seed}/{instance.split}/{instance.id}" + (f"/{salt}" if salt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def verified(rollouts: Sequence[Rollout]) -> int:
    """How many answers the verifier, or the answer's model, had to judge."""
    return sum((each.outcome in ("ok", INVALID)) + len(each.evaluated) for each in rollouts)


def policy_of(setting: Setting, host: Host) -> Policy:
    """The run's policy on this machine; TrainingError where the run has none to train."""
    policy = host.policy(setting)
    if not isinstance(policy, Policy):
        raise TrainingError("this run has no policy to train")
    return policy
