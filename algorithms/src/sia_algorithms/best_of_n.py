"""Best-of-N behavioural cloning: imitate the best of what was sampled.

Also called rejection-sampling fine-tuning (Touvron et al. 2023, arXiv 2307.09288; Dong
et al. 2023, RAFT, arXiv 2304.06767). The cold start: it works when nearly all rewards
are zero and a policy gradient is about zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sia_algorithms import ops
from sia_core.decision import Training
from sia_core.errors import NoSignal
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Sample

RARE = 0.05
"""A share of successes below which groups of eight mostly hold none."""

FAR = 25.0
"""Nats a token that a sweep may move the policy: what was one of a thousand choices becomes the likely one."""

CERTAIN = 0.9
"""The probability of a reply from which it is not imitated any more.

Adam moves weights as fast for a gradient of next to nothing. On LawBench's cases, replies imitated on and on took the
policy from 60% of new ones to 52%.
"""


class Config(BaseModel):
    """``top`` is how many rollouts of a group are kept, where that many earned anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(default=1, ge=1)
    epochs: int = Field(default=3, ge=1)


class BestOfN:
    """The learner ``best-of-n``."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.best_of_n:loss"
    needs = frozenset({"train", "custom_loss"})

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.epochs = self.config.epochs

    def training(self, stats: RewardStats) -> Training:
        """Sweeps over many instances, so that what was learned early is not forgotten, and no answer tried twice.

        Where success is rare the first sweep looks widest: all that follows builds on what it finds.
        """
        rare = stats.success_rate < RARE
        return Training(
            steps=7,
            prompts=2048,
            group=8,
            first_group=64 if rare else None,
            minibatch=32,
            distinct=True,
            durable=1,
            max_kl=FAR,
        )

    def objections(self, stats: RewardStats) -> list[str]:
        if stats.deviation == 0 and stats.density:  # none that earned anything may only be rare
            return [f"every rollout earned {stats.mean:g}: none is better than the rest"]
        return []

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        ops.check(groups)
        best = [trace for group in groups for sample in self._best(group) for trace in ops.trained(sample)]
        if not best:
            raise NoSignal(
                f"no rollout of any of {len(groups)} groups earned more than 0: there is nothing to imitate; "
                "sample more rollouts, or let the harness make the task easier first"
            )
        traces = [trace for trace in best if math.fsum(trace.logprobs) < math.log(CERTAIN)]
        if not traces:
            raise NoSignal(
                f"each of the {len(best)} replies to imitate has a probability of at least {CERTAIN:g} already: there "
                "is nothing left to learn by imitation; go on with ppo or grpo, or train on other instances"
            )
        tokens = float(sum(sum(trace.mask) for trace in traces))
        return [Datum(trace=trace, advantages=ops.spread(trace, 1.0), normaliser=tokens) for trace in traces]

    def _best(self, group: ops.Group) -> list[Sample]:
        """The top of a group with positive reward, each text once."""
        top: dict[object, Sample] = {}
        for sample in sorted(group, key=ops.order):
            if sample.reward > 0 and len(top) < self.config.top:
                top.setdefault(ops.written(sample), sample)
        return list(top.values())


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor | None, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log p of what is imitated, a mean over tokens."""
    logprobs_BT = ops.difference(logprobs_BT, logprobs_BT.new_zeros(()), batch)
    return -(logprobs_BT * batch.advantages_BT).sum() / batch.normaliser, ops.watch(logprobs_BT, batch)
