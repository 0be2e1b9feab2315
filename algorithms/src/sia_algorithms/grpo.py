"""GRPO: rewards relative to the group that they came in, no critic.

Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300). Its descendants are settings:

- Dr.GRPO (Liu et al. 2025, arXiv 2503.20783): ``divide_by_std=False, aggregate="constant", max_tokens=N``
- DAPO (Yu et al. 2025, arXiv 2503.14476): ``clip_high=0.28, aggregate="token_mean", drop_flat=True,
  mask_truncated=True``
- GSPO (Zheng et al. 2025, arXiv 2507.18071): ``ratio="sequence", clip_low=3e-4, clip_high=4e-4``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sia_algorithms import ops
from sia_core.decision import Training
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Trace

EPSILON = 1e-4
"""Added to a group's standard deviation, as TRL does."""


class Config(BaseModel):
    """The published algorithm by default.

    ``aggregate`` says what the loss is a mean over: sequences of token means, tokens,
    or sequences of token sums divided by the constant ``max_tokens``. ``drop_flat``
    leaves groups without variance out of that mean (they never have a gradient of
    their own); ``mask_truncated`` gives truncated rollouts no gradient, though their
    rewards still count in their group's mean. ``kl_weight`` weighs k3 to the base;
    ``unbiased_kl`` multiplies it by the ratio, so that its gradient is the reverse
    KL's (DeepSeek-V3.2, arXiv 2512.02556; TRL's default).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    divide_by_std: bool = True
    aggregate: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    max_tokens: int | None = Field(default=None, ge=1)
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = Field(default=0.2, gt=0)
    clip_high: float = Field(default=0.2, gt=0)
    kl_weight: float = Field(default=0.0, ge=0)
    unbiased_kl: bool = False
    drop_flat: bool = False
    mask_truncated: bool = False
    epochs: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _constant_of_what(self) -> Self:
        if (self.aggregate == "constant") != (self.max_tokens is not None):
            raise ValueError("max_tokens is the divisor of aggregate='constant': set both or neither")
        return self


class Grpo:
    """The learner ``grpo``."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.grpo:loss"

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.epochs = self.config.epochs
        self.needs = frozenset({"train", "custom_loss"} | ({"reference"} if self.config.kl_weight else set()))

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        return ops.flat_objections(stats)

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        config = self.config
        ops.check(groups, reference="reference" in self.needs)
        varied = ops.differing(groups)
        pairs: list[tuple[Trace, float]] = []
        masked = 0
        for group in varied if config.drop_flat else groups:
            for sample, advantage in zip(group, self._advantages(group), strict=True):
                if sample.truncated and config.mask_truncated:
                    masked += len(ops.trained(sample))
                else:
                    pairs += [(trace, advantage) for trace in ops.trained(sample)]
        normaliser = self._normaliser([trace for trace, _ in pairs], masked)
        # A sequence without advantage counts in the mean, but has no gradient to compute.
        return ops.signal(
            [
                Datum(trace=trace, advantages=ops.spread(trace, advantage), normaliser=normaliser)
                for trace, advantage in pairs
                if advantage or config.kl_weight
            ]
        )

    def _advantages(self, group: ops.Group) -> list[float]:
        """A_n = (r_n - mean) / (std + eps)."""
        if ops.flat(group):
            return [0.0] * len(group)
        rewards = [sample.reward for sample in group]
        scale = stdev(rewards) + EPSILON if self.config.divide_by_std else 1.0
        mean = fmean(rewards)
        return [(reward - mean) / scale for reward in rewards]

    def _normaliser(self, traces: Sequence[Trace], masked: int) -> float:
        """The divisor of the whole batch's loss. Masked sequences count as sequences, their tokens do not."""
        if self.config.aggregate == "token_mean":
            return float(sum(sum(trace.mask) for trace in traces))
        return float((len(traces) + masked) * (self.config.max_tokens or 1))


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor | None, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) + beta k3(logp_ref - logp), aggregated."""
    config = Config.model_validate(settings)
    length_B1 = batch.mask_BT.sum(-1, keepdim=True).clamp(min=1)
    log_ratio_BT = ops.difference(logprobs_BT, batch.old_logprobs_BT, batch)
    if config.ratio == "sequence":
        # GSPO, eq. 7: the geometric mean of a sequence's ratios stands for each of them.
        log_ratio_BT = (log_ratio_BT.sum(-1, keepdim=True) / length_B1) * batch.mask_BT
    ratio_BT = torch.exp(log_ratio_BT)
    token_BT = ops.clipped(ratio_BT, batch.advantages_BT, config.clip_low, config.clip_high)
    if config.kl_weight:
        kl_BT = ops.k3(ops.difference(batch.reference_BT, logprobs_BT, batch))
        token_BT = token_BT + config.kl_weight * (ratio_BT * kl_BT if config.unbiased_kl else kl_BT)
    if config.aggregate == "sequence_mean":
        token_BT = token_BT / length_B1
    scalar = token_BT.sum() / batch.normaliser
    outside_BT = (ratio_BT < 1 - config.clip_low) | (ratio_BT > 1 + config.clip_high)
    return scalar, {**ops.watch(logprobs_BT, batch), "clipped": outside_BT.sum()}
