"""PPO with GAE: a clipped policy gradient with a critic.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), and
2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
(arXiv 1506.02438); Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155) for the KL to the
base as a cost of each token. Time runs over the tokens that the policy sampled; what a
tool or a user said between them belongs to the environment's step.
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
from sia_core.errors import NoSignal
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Sample


class Config(BaseModel):
    """``clip`` and ``clip_value`` are the eps of policy and critic; ``value_weight`` weighs the critic's loss.

    ``whiten`` brings advantages to mean 0 and deviation 1; ``kl_weight`` takes
    kl_weight (logp - logp_ref), at sampling, off each token's reward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(default=0.2, gt=0)
    clip_value: float = Field(default=0.2, gt=0)
    value_weight: float = Field(default=0.5, ge=0)
    whiten: bool = True
    kl_weight: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=4, ge=1)


class Ppo:
    """The learner ``ppo``. Step rewards count where a trace has them; the verifier's comes with the last token."""

    Config: ClassVar = Config
    loss: ClassVar = "sia_algorithms.ppo:loss"

    def __init__(self, **settings: Any) -> None:
        self.config = Config(**settings)
        self.epochs = self.config.epochs
        self.needs = frozenset({"train", "values", "custom_loss"} | ({"reference"} if self.config.kl_weight else set()))

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        if stats.deviation == 0 and not stats.stepwise:
            return [f"every rollout earned {stats.mean:g}: the critic would learn a constant and the policy noise"]
        return []

    def credit(self, groups: Sequence[ops.Group]) -> list[Datum]:
        ops.check(groups, values=True, reference="reference" in self.needs)
        samples = [sample for group in groups for sample in group if ops.trained(sample)]
        if len({_earned(sample) for sample in samples}) < 2:
            raise NoSignal(
                f"all of {len(samples)} rollouts earned the same, step by step: what is left of the advantages "
                "is the critic's error; sample other instances"
            )
        credits = [self._gae(sample) for sample in samples]
        sampled = [advantage for advantages, _ in credits for advantage in advantages]
        shift, scale = _moments(sampled) if self.config.whiten else (0.0, 1.0)
        data = []
        for sample, (advantages, returns) in zip(samples, credits, strict=True):
            step = iter(zip(advantages, returns, strict=True))
            for trace in ops.trained(sample):
                rows = [next(step) if entry else None for entry in trace.mask]
                data.append(
                    Datum(
                        trace=trace,
                        advantages=[(row[0] - shift) / scale if row else 0.0 for row in rows],
                        returns=[row[1] if row else 0.0 for row in rows],
                        normaliser=float(len(sampled)),
                    )
                )
        return ops.signal(data)

    def _gae(self, sample: Sample) -> tuple[list[float], list[float]]:
        """Advantages and returns of a sample's sampled tokens, in order.

        delta_t = r_t + gamma V_{t+1} - V_t,  A_t = sum_k (gamma lambda)^k delta_{t+k},  R_t = A_t + V_t
        """
        rewards, values = self._steps(sample)
        gamma, lam = self.config.gamma, self.config.lam
        advantages = [0.0] * len(values)
        following, next_value = 0.0, 0.0  # a rollout ends in a state worth nothing more, cut short or not
        for t in reversed(range(len(values))):
            delta = rewards[t] + gamma * next_value - values[t]
            following = delta + gamma * lam * following
            advantages[t], next_value = following, values[t]
        return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]

    def _steps(self, sample: Sample) -> tuple[list[float], list[float]]:
        """Rewards and values of a sample's sampled tokens, in order."""
        rewards: list[float] = []
        values: list[float] = []
        for trace in ops.trained(sample):
            earned = [0.0] * len(trace.mask)
            for index, reward in trace.step_rewards:
                earned[index] += reward
            base = trace.reference if self.config.kl_weight and trace.reference else trace.logprobs
            for t in range(len(trace.mask)):
                if trace.mask[t]:
                    rewards.append(earned[t] - self.config.kl_weight * (trace.logprobs[t] - base[t]))
                    values.append((trace.values or ())[t])
        rewards[-1] += sample.reward
        return rewards, values


def _earned(sample: Sample) -> tuple[float, ...]:
    """A rollout's rewards, for comparison: the verifier's, then the step rewards that are not 0."""
    steps = (reward for trace in ops.trained(sample) for _, reward in trace.step_rewards)
    return tuple(reward if abs(reward) > ops.SMALLEST else 0.0 for reward in (sample.reward, *filter(None, steps)))


def _moments(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, the latter kept off zero."""
    mean = fmean(numbers)
    return mean, math.sqrt(fmean((number - mean) * (number - mean) for number in numbers)) + 1e-8


def loss(
    logprobs_BT: Tensor, batch: Batch, values_BT: Tensor, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho) A) + c/2 max((V - R)^2, (clip(V, V_old +- eps) - R)^2), a mean over sampled tokens."""
    config = Config.model_validate(settings)
    ratio_BT = torch.exp(ops.difference(logprobs_BT, batch.old_logprobs_BT, batch))
    policy_BT = ops.clipped(ratio_BT, batch.advantages_BT, config.clip, config.clip)

    step_BT = ops.difference(values_BT, batch.old_values_BT, batch)
    near_BT = batch.old_values_BT + torch.clamp(step_BT, -config.clip_value, config.clip_value)
    error_BT = torch.maximum(
        ops.difference(values_BT, batch.returns_BT, batch) ** 2, ops.difference(near_BT, batch.returns_BT, batch) ** 2
    )
    scalar = (policy_BT + config.value_weight / 2 * error_BT).sum() / batch.normaliser
    outside_BT = ((ratio_BT - 1).abs() > config.clip) * batch.mask_BT
    sums = {"clipped": outside_BT.sum(), "value_error": error_BT.detach().sum()}
    return scalar, {**ops.watch(logprobs_BT, batch), **sums}
