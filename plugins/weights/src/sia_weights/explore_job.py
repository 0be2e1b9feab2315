"""Exploring an agent, on the machine that holds the policy: rollouts in groups, measured as training would see them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from sia_core.errors import NoSignal, SiaError, TrainingError
from sia_core.evidence import reward_stats
from sia_core.learning import Engine, Sample, Trace, credited
from sia_core.run.record import verified
from sia_core.run.rollouts import Setting, Sweep
from sia_core.types import OfferRef
from sia_runtime.worker.batch import Rolled, needs, policy_of, roll_out
from sia_runtime.worker.host import Host

LOOKED_AT = 64
"""Traces, spread over what there is, on which sampler and trainer are compared and movements measured."""


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
    figures = needs(rolled)
    if figures["short"]:
        fault = f"{figures['short']} of its rollouts need more tokens than the budget has left for them"
    elif not traces:
        fault = "the harness does not ask the policy, so there is nothing of it to train on"
    rollouts, failure = [each.rollout for each in rolled], task.metric.reward(task.failure_reward)
    return {
        "stats": asdict(reward_stats(rollouts, failure, ordinal=task.metric.ordinal, kl_to_base=kl)),
        "fault": fault,
        "rollouts": len(rollouts),
        "verifications": verified(rollouts),
        "tokens": fmean(each.tokens for each in rollouts),
        **figures,
        "seconds": rolling / len(rollouts),
        "pass_seconds": pass_seconds,
        "memory": policy.engine.memory()["needed"],
        "suits": getattr(policy.engine, "rollouts", 0),
        "trained": _trained(payload["learners"], samples(rolled, sweep), host),
        "policy": {**known(policy.engine), "name": _name(setting)},
    }


def known(engine: Engine) -> dict[str, Any]:
    """The facts that an engine tells about its policy: size, context, whether it was trained before."""
    about = dict(getattr(engine, "about", {}))
    return {**about, "context": getattr(engine, "context", None)}


def _name(setting: Setting) -> str:
    """The policy's name; of a folder on this machine the last part alone, as prompts go elsewhere."""
    engine = setting.engine
    name = str(engine.settings.get("policy", engine.name)) if engine else ""
    place = Path(name.removeprefix("hf:"))
    return place.name if place.is_absolute() else name


def samples(rolled: Sequence[Rolled], sweep: Sweep) -> list[list[Sample]]:
    """The samples for learners: the rollouts of a sweep in their groups."""
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
            data = credited(host.learner(OfferRef(name)), groups)
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
    if "reference" not in engine.can:
        return None, fault
    # By the trainer's own figures on both sides: rounding between sampler and trainer is no drift.
    now = [replace(trace, logprobs=row) for trace, row in zip(traces, engine.logprobs(traces), strict=True)]
    return divergence(engine.logprobs(traces, reference=True), now), fault


def _pass_seconds(engine: Engine, traces: Sequence[Trace]) -> float:
    """Of a forward pass over whole groups, as they are trained on, per token."""
    started = time.monotonic()
    if traces:
        engine.logprobs(traces)
    return (time.monotonic() - started) / max(1, sum(len(trace.tokens) for trace in traces))
