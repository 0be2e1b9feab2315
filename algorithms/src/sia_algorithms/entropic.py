"""Entropic advantage weighting: a few good rollouts of a group, each worth a lot.

Yuksekgonul et al. 2026, "Learning to Discover at Test Time" (TTT-Discover,
arXiv 2601.16175). The objective is log E[exp(beta r)], with its own beta for each
group. Published with groups of 64, lr 4e-5, Adam (0.9, 0.95, 1e-8), one step a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sia_algorithms import ops
from sia_core.decision import Training
from sia_core.errors import TrainingError
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum

LARGEST_BETA = 1e6
NARROWEST, WIDEST = 8, 64


class Config(BaseModel):
    """``kl_weight`` (the paper's lambda) holds tokens to the base; ``kl_target`` is the tilt of a group, in nats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kl_weight: float = Field(default=0.1, ge=0)
    kl_target: float = Field(default=math.log(2), gt=0)


class Entropic:
    """The learner ``entropic``."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.entropic:loss"
    epochs = 1  # the importance weights are not clipped, so a batch is good for one step

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.needs = frozenset({"train", "custom_loss"} | ({"reference"} if self.config.kl_weight else set()))

    def training(self, stats: RewardStats) -> Training:
        """Few groups, so wide that a rollout of each should be rewarded; as published where rewards are rare."""
        width = math.ceil(1 / stats.density) if stats.density else WIDEST
        return Training(prompts=8, group=min(max(NARROWEST, width), WIDEST))

    def objections(self, stats: RewardStats) -> list[str]:
        return ops.flat_objections(stats)

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        ops.check(groups, reference="reference" in self.needs)
        varied = ops.differing(groups)
        if any(len(group) < 3 for group in varied):
            raise TrainingError("entropic weighs a rollout against the rest of its group: it needs three or more")
        samples = [sample for group in varied for sample in group]
        advantages = [advantage for group in varied for advantage in self._advantages(group)]
        pairs = [
            (trace, advantage)
            for sample, advantage in zip(samples, advantages, strict=True)
            for trace in ops.trained(sample)
        ]
        drifts = [_drift(trace.logprobs, trace.reference) for trace, _ in pairs]
        sampled = [
            drift
            for (trace, _), row in zip(pairs, drifts, strict=True)
            for drift, entry in zip(row, trace.mask, strict=True)
            if entry
        ]
        mean, weight = fmean(sampled) if sampled else 0.0, self.config.kl_weight
        # A_t += lambda mask_t (mean(logp - logp_ref) - (logp - logp_ref)_t)
        return ops.signal(
            [
                Datum(
                    trace=trace,
                    advantages=[
                        entry * (advantage + weight * (mean - drift))
                        for drift, entry in zip(row, trace.mask, strict=True)
                    ],
                    normaliser=float(len(samples)),
                )
                for (trace, advantage), row in zip(pairs, drifts, strict=True)
            ]
        )

    def _advantages(self, group: ops.Group) -> list[float]:
        """A_n = exp(beta (r_n - r_max)) / (Z_{-n} + 1e-12) - 1, Z_{-n} = mean_{m != n} exp(beta (r_m - r_max))."""
        rewards = [sample.reward for sample in group]
        best, spread = max(rewards), max(rewards) - min(rewards)
        # In units of the group's range, so that the search for beta does not depend on the reward's scale.
        gaps = [(reward - best) / spread for reward in rewards]
        beta = adaptive_beta(gaps, self.config.kl_target)
        weights = [math.exp(beta * gap) for gap in gaps]
        others = [fmean(weights[:n] + weights[n + 1 :]) for n in range(len(weights))]
        return [weight / (rest + 1e-12) - 1 for weight, rest in zip(weights, others, strict=True)]


def adaptive_beta(gaps: Sequence[float], target: float) -> float:
    """The beta for which q_n ~ exp(beta gap_n) has KL(q || uniform) = target; ``gaps`` are at most 0, the best at 0.

    Doubled from 1 until the KL is reached, then bisected. Where too many tie for
    the best it is never reached, and beta is LARGEST_BETA: only the best count.
    """
    high = 1.0
    while _tilt(gaps, high) < target:
        if high >= LARGEST_BETA:
            return LARGEST_BETA
        high = min(2 * high, LARGEST_BETA)
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _tilt(gaps, middle) < target else (low, middle)
    return high


def _tilt(gaps: Sequence[float], beta: float) -> float:
    """KL(q || uniform) = sum_n q_n log(N q_n)."""
    weights = [math.exp(beta * gap) for gap in gaps]
    total = math.fsum(weights)
    return math.fsum(w / total * math.log(len(gaps) * w / total) for w in weights if w > 0)


def _drift(logprobs: Sequence[float], reference: Sequence[float] | None) -> list[float]:
    """logp - logp_ref of each token at sampling; zeros where the base is not asked."""
    return [a - b for a, b in zip(logprobs, reference or logprobs, strict=True)]


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor | None, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-rho A, the importance-sampled policy gradient: a sum over tokens, a mean over rollouts."""
    ratio_BT = torch.exp(ops.difference(logprobs_BT, batch.old_logprobs_BT, batch))
    return -(ratio_BT * batch.advantages_BT).sum() / batch.normaliser, ops.watch(logprobs_BT, batch)
