"""One weight update, from rollouts to adapter: roll out, verify, credit, optimise, and again.

A few steps are one job of the backend and one step of the ledger, and end with a
snapshot (adapter, optimizer), so that a run which is stopped goes on from there.
What is sampled in a step is trained on in that step and never later.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sia_core.decision import Training
from sia_core.errors import NoSignal, TrainingError
from sia_core.evidence import RewardStats, Rollout, reward_stats
from sia_core.learning import Datum, Engine, Learner, Sample, Trace
from sia_core.rollout import Rolled, Setting, Sweep, roll_out
from sia_core.types import OfferRef
from sia_core.verifying import INVALID

if TYPE_CHECKING:
    from sia_core.host import Host
    from sia_core.policy import Policy

EXPLORED, GROUP = 32, 8
"""Search instances, and rollouts of each at the training temperature, that show what a policy would learn from."""

SILENCE = 10
"""Steps on end without anything to learn from, after which an update fails."""

LOOKED_AT = 16
"""Traces on which sampler and trainer are compared, and movements of the policy measured."""


@dataclass(frozen=True)
class Update:
    """What a weight update trains, and how; a pure value, JSON in a job. ``key`` names it in the ledger."""

    key: str
    agent: str
    harness: str
    adapter: str | None
    algorithm: OfferRef
    training: Training

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "training": self.training.model_dump()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Update:
        algorithm, training = OfferRef(**value["algorithm"]), Training.model_validate(value["training"])
        return cls(**{**value, "algorithm": algorithm, "training": training})


@dataclass(frozen=True)
class Exploration:
    """What groups of rollouts at the training temperature show, and what they took.

    ``fault`` says why training on rollouts like these would be wrong; empty if it would
    not. Seconds and tokens are a rollout's; ``pass_seconds`` a forward pass's, per token.
    """

    stats: RewardStats
    fault: str
    rollouts: int
    verifications: int
    tokens: float
    seconds: float
    pass_seconds: float

    def estimate(self, training: Training, epochs: int) -> dict[str, float]:
        """What an update will take: rollouts, tokens and seconds. A backward pass takes about two forward ones."""
        rollouts = training.steps * training.prompts * training.group
        seconds = self.seconds + 3 * epochs * self.tokens * self.pass_seconds
        return {"rollouts": rollouts, "tokens": round(rollouts * self.tokens), "seconds": round(rollouts * seconds, 1)}


def abilities(payload: Mapping[str, Any], host: Host) -> list[str]:
    """The job: what the run's engine can do, sorted."""
    return sorted(_policy(Setting.from_json(payload["setting"]), host).engine.can)


def explore(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: roll an agent out in groups, compare sampler with trainer, and take the time."""
    setting, sweep = Setting.from_json(payload["setting"]), Sweep(**payload["sweep"])
    policy = _policy(setting, host)
    task = host.task(setting.task)
    with policy.holding(sweep.adapter):
        started = time.monotonic()
        rolled, _ = roll_out(setting, sweep, host)
        rolling = time.monotonic() - started
        traces = _traces(rolled)
        kl, fault, passing = None, "", 0.0
        with policy.gateway.exclusive() as engine:
            started = time.monotonic()
            try:
                if traces:
                    engine.check(traces)
            except TrainingError as error:
                fault = str(error)
            passing = time.monotonic() - started
            if traces and "reference" in engine.can:
                kl = _kl(engine.logprobs(traces, reference=True), traces)
    if not traces:
        fault = "the harness does not ask the policy, so there is nothing of it to train on"
    rollouts = [each.rollout for each in rolled]
    return {
        "stats": asdict(
            reward_stats(rollouts, task.failure_reward, ordinal=task.metric.ordinal, kl_to_base=kl if traces else None)
        ),
        "fault": fault,
        "rollouts": len(rollouts),
        "verifications": verified(rollouts),
        "tokens": fmean(each.tokens for each in rollouts),
        "seconds": rolling / len(rollouts),
        "pass_seconds": passing / max(1, sum(len(trace.tokens) for trace in traces)),
    }


def train(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: some steps of an update, from the adapter that the last ones left to the next.

    What makes the update fail is a result, ``failed``, so that a resumed run hears the same.
    """
    setting, update = Setting.from_json(payload["setting"]), Update.from_json(payload["update"])
    policy = _policy(setting, host)
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    failed, adapter = "", payload["adapter"]
    with policy.training(payload["adapter"]):
        course = Course(setting, update, host, policy, payload["silent"])
        try:
            for step in range(payload["first"], payload["last"]):
                rows.append(course.step(step))
            adapter = policy.keep()
        except TrainingError as error:
            failed = str(error)
    return {
        "adapter": adapter,
        "failed": failed,
        "steps": rows,
        "silent": course.silent,
        "seconds": round(time.monotonic() - started, 3),
        "memory": dict(policy.engine.memory()),
    }


class Course:
    """The steps of an update on the machine that trains."""

    def __init__(self, setting: Setting, update: Update, host: Host, policy: Policy, silent: int) -> None:
        self.setting, self.update, self.host, self.policy = setting, update, host, policy
        self.learner: Learner = host.learner(update.algorithm)
        self.silent = silent
        self._checked = False

    def step(self, index: int) -> dict[str, Any]:
        """Sample groups, credit them, optimise; what is worth watching."""
        started = time.monotonic()
        sweep = self._sweep(index)
        rolled, _ = roll_out(self.setting, sweep, self.host)
        sampled = time.monotonic() - started
        rollouts = [each.rollout for each in rolled]
        stats = reward_stats(rollouts, self.host.task(self.setting.task).failure_reward)
        row: dict[str, Any] = {
            "step": index,
            "rollouts": len(rollouts),
            "verifications": verified(rollouts),
            "tokens": sum(each.tokens for each in rollouts),
            "reward": stats.mean,
            "flat_groups": stats.flat_groups,
            "sampling_seconds": round(sampled, 3),
        }
        try:
            with self.policy.gateway.exclusive() as engine:
                row |= self._optimise(engine, self._groups(sweep, rolled))
            self.silent = 0
        except NoSignal as nothing:
            self.silent += 1
            if self.silent >= SILENCE:
                raise TrainingError(f"zero signal in {self.silent} steps on end: {nothing}") from None
        return row | {"seconds": round(time.monotonic() - started, 3)}

    def _sweep(self, index: int) -> Sweep:
        update, training = self.update, self.update.training
        names = sorted(self.host.instances(self.setting.task, "search"))
        chosen = islice(_shuffled(names, f"{self.setting.seed}/{update.key}"), index * training.prompts, None)
        instances = tuple(islice(chosen, min(training.prompts, len(names))))
        return Sweep(
            f"{update.key}/{index}",
            update.agent,
            update.harness,
            "search",
            instances,
            adapter=update.adapter,
            group=training.group,
            training=True,
        )

    def _groups(self, sweep: Sweep, rolled: Sequence[Rolled]) -> list[list[Sample]]:
        """Groups by instance. TrainingError where a rollout is of other weights than those that will learn from it."""
        now = self.policy.version
        stale = {each.weights for each in rolled} - {now}
        if stale:
            raise TrainingError(f"stale rollouts: sampled with the weights {', '.join(stale)}, and now they are {now}")
        samples = [
            Sample(each.rollout.instance, f"{sweep.agent}@{each.weights}", each.rollout.reward, traces, truncated)
            for each in rolled
            for traces, truncated in [(each.record.traces, each.record.truncated) if each.record else ((), False)]
        ]
        return [samples[first : first + sweep.group] for first in range(0, len(samples), sweep.group)]

    def _optimise(self, engine: Engine, groups: list[list[Sample]]) -> dict[str, Any]:
        learner, training = self.learner, self.update.training
        if not self._checked:
            engine.check(_first(groups))
            self._checked = True
        if "reference" in learner.needs:
            groups = _with_reference(engine, groups)
        data = learner.credit(groups)
        watched: Mapping[str, float] = {}
        for _ in range(learner.epochs):
            watched = engine.forward_backward(data, learner.loss, learner.config.model_dump(mode="json"))
            stepped = engine.optim_step(lr=training.learning_rate)
            self.policy.stepped()
        moved = self._moved(engine, data)
        return {"loss": watched["loss"], "surprise": _mean(watched, "surprise"), **stepped, "kl": moved}

    def _moved(self, engine: Engine, data: Sequence[Datum]) -> float:
        """KL(sampler || policy) in nats a token over what this step did; TrainingError past its bound."""
        traces = [datum.trace for datum in data[:LOOKED_AT]]
        moved = _kl(engine.logprobs(traces), traces)
        bound = self.update.training.max_kl
        if not moved <= bound:
            raise TrainingError(
                f"one step moved the policy by {moved:.3g} nats a token, past its bound of {bound:g}; "
                "lower the learning rate (training.learning_rate), or raise the bound (training.max_kl)"
            )
        return moved


def verified(rollouts: Sequence[Rollout]) -> int:
    """How many of them the verifier, or the answer's model, had to judge."""
    return sum(each.outcome in ("ok", INVALID) for each in rollouts)


def _policy(setting: Setting, host: Host) -> Policy:
    policy = host.policy(setting)
    if policy is None:
        raise TrainingError("this run has no policy to train")
    return policy


def _shuffled(names: Sequence[str], seed: str) -> Any:
    """The names in one random order after the other, without end."""
    generator = random.Random(f"train {seed}")
    while True:
        order = list(names)
        generator.shuffle(order)
        yield from order


def _traces(rolled: Sequence[Rolled]) -> list[Trace]:
    return [trace for each in rolled if each.record for trace in each.record.traces if any(trace.mask)][:LOOKED_AT]


def _first(groups: Sequence[Sequence[Sample]]) -> list[Trace]:
    return [trace for group in groups for each in group for trace in each.traces if any(trace.mask)][:LOOKED_AT]


def _with_reference(engine: Engine, groups: list[list[Sample]]) -> list[list[Sample]]:
    """The same samples with the base model's log-probabilities."""
    traces = [trace for group in groups for each in group for trace in each.traces]
    rows = iter(engine.logprobs(traces, reference=True))
    return [
        [replace(each, traces=[replace(trace, reference=next(rows)) for trace in each.traces]) for each in group]
        for group in groups
    ]


def _kl(others: Sequence[Sequence[float]], traces: Sequence[Trace]) -> float:
    """KL(sampler || other) in nats a token, by k3 (Schulman 2020), from the other's log-probabilities of traces."""
    gaps = [
        there - here
        for row, trace in zip(others, traces, strict=True)
        for there, here, sampled in zip(row, trace.logprobs, trace.mask, strict=True)
        if sampled
    ]
    return fmean(math.exp(min(gap, 50.0)) - gap - 1 for gap in gaps) if gaps else 0.0


def _mean(watched: Mapping[str, float], name: str) -> float:
    return watched.get(name, 0.0) / max(1.0, watched.get("tokens", 1.0))
