"""DPO on pairs that the verifier ranked: its order counts, its numbers do not.

Rafailov et al. 2023, "Direct Preference Optimization" (arXiv 2305.18290).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from sia_algorithms import ops
from sia_core.decision import Training
from sia_core.errors import NoSignal
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Sample


class Config(BaseModel):
    """``beta`` is the paper's; ``margin`` the least difference of rewards that makes a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(default=0.1, gt=0)
    margin: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=1, ge=1)


class Dpo:
    """The learner ``dpo``."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.dpo:loss"
    needs = frozenset({"train", "reference", "custom_loss"})

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.epochs = self.config.epochs

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        return ops.flat_objections(stats)

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        ops.check(groups, reference=True)
        pairs = [pair for group in groups for pair in self._pairs(group)]
        if not pairs:
            raise NoSignal(
                f"no two rollouts of any of {len(groups)} groups differ in reward by {self.config.margin:g} or more: "
                "there is no pair to prefer in; sample other instances, or lower the margin"
            )
        return [
            Datum(trace=trace, advantages=ops.spread(trace, side), normaliser=float(len(pairs)), pair=number)
            for number, pair in enumerate(pairs)
            for sample, side in zip(pair, (1.0, -1.0), strict=True)
            for trace in ops.trained(sample)
        ]

    def _pairs(self, group: ops.Group) -> list[tuple[Sample, Sample]]:
        """The best with the worst, the second best with the second worst, and so on; each rollout once."""
        ranked = sorted((sample for sample in group if ops.trained(sample)), key=ops.order)
        folded = zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
        return [
            (winner, loser)
            for winner, loser in folded
            if winner.reward > loser.reward and winner.reward - loser.reward >= self.config.margin
        ]


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor | None, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(beta [(logp_w - logp_ref_w) - (logp_l - logp_ref_l)]), a mean over pairs."""
    config = Config.model_validate(settings)
    # Advantages are +1 on a winner's tokens and -1 on a loser's, so a pair's sum is the bracket.
    signed_B = (batch.advantages_BT * ops.difference(logprobs_BT, batch.reference_BT, batch)).sum(-1)
    together_BB = (batch.pair_B[:, None] == batch.pair_B[None, :]) & (batch.pair_B >= 0)
    margin_B = (together_BB * signed_B).sum(-1)
    # Every sequence of a pair holds the pair's margin; together they count once.
    share_B = (batch.pair_B >= 0) / together_BB.sum(-1).clamp(min=1)
    scalar = -(logsigmoid(config.beta * margin_B) * share_B).sum() / batch.normaliser
    sums = {"pairs": share_B.sum(), "ranked": ((margin_B > 0) * share_B).sum()}
    return scalar, {**ops.watch(logprobs_BT, batch), **sums}
