"""What a policy would learn from: an agent's rollouts in groups, at the training temperature, and what they took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sia_core.decision import Training
from sia_core.errors import NoSignal, SiaError, TrainingError
from sia_core.evidence import RewardStats, reward_stats
from sia_core.learning import Engine, Sample, Trace
from sia_core.rollout import Rolled, Setting, Sweep, needs, policy_of, roll_out, verified
from sia_core.types import OfferRef

if TYPE_CHECKING:
    from sia_core.host import Host

EXPLORED, GROUP = 32, 8
"""Search instances, and rollouts of each at the training temperature, that show what a policy would learn from."""

LOOKED_AT = 64
"""Traces, spread over what there is, on which sampler and trainer are compared and movements measured."""


@dataclass(frozen=True)
class Exploration:
    """What groups of rollouts at the training temperature show, and what they took.

    ``fault`` says why training on rollouts like these would be wrong; empty if it would
    not. Seconds and tokens are a rollout's, ``peak`` the share of tokens that the greediest
    came to need, ``short`` how many ran out of theirs; ``pass_seconds`` a forward pass's,
    per token; ``memory`` the bytes that the engine says training takes at most; ``trained``
    the share of the tokens that each learner, by name, would train on: one that imitates
    takes few.
    """

    stats: RewardStats
    fault: str
    rollouts: int
    verifications: int
    tokens: float
    seconds: float
    pass_seconds: float
    memory: float
    trained: Mapping[str, float]
    peak: int = 0
    short: int = 0

    def estimate(self, algorithm: str, training: Training, epochs: int, instances: int) -> dict[str, float]:
        """What an update on so many instances will take: counts, tokens, seconds, and bytes of memory.

        Each rollout is verified once. A backward pass takes about two forward ones. A learner of which it is not
        known is taken to train on all.
        """
        rollouts = training.rollouts(instances)
        passes = 3 * epochs * self.trained.get(algorithm, 1.0)
        seconds = rollouts * (self.seconds + passes * self.tokens * self.pass_seconds)
        return {
            "rollouts": rollouts,
            "verifications": rollouts,
            "tokens": round(rollouts * self.tokens),
            "seconds": round(min(seconds, training.seconds or seconds), 1),
            "memory": self.memory,
        }


def explore(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: roll an agent out in groups, compare sampler with trainer, and take the time."""
    setting, sweep = Setting.from_json(payload["setting"]), Sweep(**payload["sweep"])
    policy = policy_of(setting, host)
    task = host.task(setting.task)
    with policy.holding(sweep.adapter):
        started = time.monotonic()
        rolled, _ = roll_out(setting, sweep, host)
        rolling = time.monotonic() - started
        traces = [trace for each in rolled for trace in _asked(each) if any(trace.mask)]
        with policy.gateway.exclusive() as engine:
            kl, fault = _compared(engine, spread(traces))
            pass_seconds = _pass_seconds(engine, traces[:LOOKED_AT])
    told = needs(rolled)
    if told["short"]:
        fault = f"{told['short']} of its rollouts need more tokens than the budget has left for them"
    elif not traces:
        fault = "the harness does not ask the policy, so there is nothing of it to train on"
    rollouts = [each.rollout for each in rolled]
    return {
        "stats": asdict(reward_stats(rollouts, task.failure_reward, ordinal=task.metric.ordinal, kl_to_base=kl)),
        "fault": fault,
        "rollouts": len(rollouts),
        "verifications": verified(rollouts),
        "tokens": fmean(each.tokens for each in rollouts),
        **told,
        "seconds": rolling / len(rollouts),
        "pass_seconds": pass_seconds,
        "memory": policy.engine.memory()["needed"],
        "trained": _trained(payload["learners"], samples(rolled, sweep), host),
    }


def samples(rolled: Sequence[Rolled], sweep: Sweep) -> list[list[Sample]]:
    """What learners are handed: the rollouts of a sweep in their groups."""
    each = [
        Sample(one.rollout.instance, f"{sweep.agent}@{one.weights}", one.rollout.reward, traces, truncated)
        for one in rolled
        for traces, truncated in [(one.record.traces, one.record.truncated) if one.record else ((), False)]
    ]
    return [each[first : first + sweep.group] for first in range(0, len(each), sweep.group)]


def spread(traces: Sequence[Trace]) -> list[Trace]:
    """Some of the traces that hold a sampled token, evenly spread."""
    sampled = [trace for trace in traces if any(trace.mask)]
    return sampled[:: -(-len(sampled) // LOOKED_AT) or 1]


def divergence(others: Sequence[Sequence[float]], traces: Sequence[Trace]) -> float:
    """KL(sampler || other) in nats a token, from the other's log-probabilities of what was sampled.

    By k2, half the square of the difference (Schulman 2020, "Approximating KL
    divergence"): a rare success that was reinforced does not drown all else, as in k3.
    """
    gaps = [
        there - here
        for row, trace in zip(others, traces, strict=True)
        for there, here, sampled in zip(row, trace.logprobs, trace.mask, strict=True)
        if sampled
    ]
    return fmean(gap * gap / 2 for gap in gaps) if gaps else 0.0


def _trained(learners: Sequence[str], groups: Sequence[Sequence[Sample]], host: Host) -> dict[str, float]:
    """The share of the tokens that each learner trains on; without those that need more than samples to tell."""
    whole = sum(len(trace.tokens) for group in groups for each in group for trace in each.traces)
    shares = {}
    for name in learners if whole else ():
        try:
            data = host.learner(OfferRef(name)).credit(groups)
        except NoSignal:
            shares[name] = 0.0
        except SiaError:
            continue
        else:
            shares[name] = sum(len(datum.trace.tokens) for datum in data) / whole
    return shares


def _asked(rolled: Rolled) -> Sequence[Trace]:
    return rolled.record.traces if rolled.record else ()


def _compared(engine: Engine, traces: Sequence[Trace]) -> tuple[float | None, str]:
    """How far the policy is from its base, if that can be known, and why sampler and trainer do not agree, if so."""
    if not traces:
        return None, ""
    fault = ""
    try:
        engine.check(traces)
    except TrainingError as error:
        fault = str(error)
    known = "reference" in engine.can
    return divergence(engine.logprobs(traces, reference=True), traces) if known else None, fault


def _pass_seconds(engine: Engine, traces: Sequence[Trace]) -> float:
    """Of a forward pass over whole groups, as they are trained on, per token."""
    started = time.monotonic()
    if traces:
        engine.logprobs(traces)
    return (time.monotonic() - started) / max(1, sum(len(trace.tokens) for trace in traces))
