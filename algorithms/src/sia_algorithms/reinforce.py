"""REINFORCE with a leave-one-out baseline, held to the base by KL.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning"; Ahmadian et al. 2024, "Back to Basics" (RLOO, arXiv 2402.14740),
for the baseline. A whole sequence is one action; as in TRL its ratio is clipped, which
on fresh rollouts (ratio 1) is plain REINFORCE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sia_algorithms import ops
from sia_core.decision import Training
from sia_core.errors import TrainingError
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Sample


class Config(BaseModel):
    """``kl`` names where the KL to the base goes.

    ``k1_in_reward`` takes kl_weight sum_t (logp - logp_ref)_t, at sampling, off each
    rollout's reward; ``k3_in_loss`` adds kl_weight sum_t k3_t to its loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kl: Literal["k1_in_reward", "k3_in_loss"] = "k1_in_reward"
    kl_weight: float = Field(default=0.05, ge=0)
    clip: float = Field(default=0.2, gt=0)
    epochs: int = Field(default=1, ge=1)


class Reinforce:
    """The learner ``reinforce``."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.reinforce:loss"

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.epochs = self.config.epochs
        self.needs = frozenset({"train", "custom_loss"} | ({"reference"} if self.config.kl_weight else set()))

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        return ops.flat_objections(stats)

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        ops.check(groups, reference="reference" in self.needs)
        ops.differing(groups)
        if any(len(group) < 2 for group in groups):
            raise TrainingError("a leave-one-out baseline needs groups of two or more rollouts")
        rollouts = float(sum(len(group) for group in groups))
        # A sequence without advantage counts in the mean, but has no gradient to compute.
        return ops.signal(
            [
                Datum(trace=trace, advantages=ops.spread(trace, advantage), normaliser=rollouts)
                for group in groups
                for sample, advantage in zip(group, self._advantages(group), strict=True)
                for trace in ops.trained(sample)
                if advantage or (self.config.kl == "k3_in_loss" and self.config.kl_weight)
            ]
        )

    def _advantages(self, group: ops.Group) -> list[float]:
        """A_n = r_n - mean_{m != n} r_m, of rewards less their KL where it goes there."""
        rewards = [sample.reward for sample in group]
        if self.config.kl == "k1_in_reward" and self.config.kl_weight:
            rewards = [
                reward - self.config.kl_weight * _k1(sample) for reward, sample in zip(rewards, group, strict=True)
            ]
        total = math.fsum(rewards)
        return [reward - (total - reward) / (len(rewards) - 1) for reward in rewards]


def _k1(sample: Sample) -> float:
    """sum_t (logp - logp_ref)_t over the sampled tokens of a rollout."""
    return math.fsum(
        entry * (logprob - base)
        for trace in ops.trained(sample)
        for entry, logprob, base in zip(trace.mask, trace.logprobs, trace.reference or (), strict=True)
    )


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor | None, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho) A) with rho = exp(sum_t (logp - logp_old)_t), a mean over rollouts."""
    config = Config.model_validate(settings)
    ratio_B = torch.exp(ops.difference(logprobs_BT, batch.old_logprobs_BT, batch).sum(-1))
    # An advantage is the same on all sampled tokens of a sequence and 0 elsewhere.
    advantages_B = batch.advantages_BT.sum(-1) / batch.mask_BT.sum(-1).clamp(min=1)
    sequence_B = ops.clipped(ratio_B, advantages_B, config.clip, config.clip)
    if config.kl == "k3_in_loss" and config.kl_weight:
        kl_BT = ops.k3(ops.difference(batch.reference_BT, logprobs_BT, batch))
        sequence_B = sequence_B + config.kl_weight * kl_BT.sum(-1)
    return sequence_B.sum() / batch.normaliser, ops.watch(logprobs_BT, batch)
