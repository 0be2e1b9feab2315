"""The result of exploring an agent, and the cost of an update that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sia_core.decision import Training
from sia_core.evidence import MOST_COUNTED, RewardStats
from sia_core.types import LARGEST_REWARD

Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Figure = Annotated[float, Field(ge=0, le=MOST_COUNTED)]
Reward = Annotated[float, Field(ge=-LARGEST_REWARD, le=LARGEST_REWARD)]
"""A reward, or another figure of a learner's, within the bounds that a verifier's rewards have."""

EXPLORED, GROUP = 32, 8
"""Search instances, and rollouts of each at the training temperature, that show what a policy would learn from."""


FITTED_STEPS, FEWEST = 10, 4
"""Steps of an update that is cut to what suits its policy, at most, and instances of each, at least."""


def _within_bounds(stats: RewardStats) -> RewardStats:
    """The statistics, if rewards can have such: a worker may say anything. ValueError where they cannot."""
    shares = ("success_rate", "level", "density", "silent_groups", "flat_groups")
    bounds: dict[str, tuple[float, float]] = dict.fromkeys(shares, (0, 1))
    bounds |= dict.fromkeys(("rollouts", "instances", "group_size"), (1, MOST_COUNTED))
    bounds |= dict.fromkeys(("deviation", "kl_to_base"), (0, LARGEST_REWARD))
    bounds |= dict.fromkeys(("mean", "skew"), (-LARGEST_REWARD, LARGEST_REWARD))
    for name, (least, most) in bounds.items():
        value = getattr(stats, name)
        if value is not None and not least <= value <= most:  # NaN is not within either
            raise ValueError(f"{name} is not between {least:g} and {most:g}")
    return stats


@dataclass(frozen=True)
class Exploration:
    """Statistics of groups of rollouts at the training temperature, and their cost.

    ``fault`` says why training on rollouts like these would be wrong; empty if it would
    not. Seconds and tokens are a rollout's, ``peak`` the share of tokens that the greediest
    came to need, ``short`` how many ran out of theirs; ``pass_seconds`` a forward pass's,
    per token; ``memory`` the bytes that the engine says training takes at most; ``trained``
    the share of the tokens that each learner, by name, would train on: one that imitates
    takes few; ``suits`` the rollouts that an update of this policy is worth, 0 where the
    engine does not say; ``policy`` what is known of it: its name, and what the engine says.
    """

    stats: Annotated[RewardStats, AfterValidator(_within_bounds)]
    fault: str
    rollouts: Count
    verifications: Count
    tokens: Figure
    seconds: Figure
    pass_seconds: Figure
    memory: Figure
    trained: Mapping[str, Figure]
    peak: Count = 0
    short: Count = 0
    suits: Count = 0
    policy: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self, algorithm: str, training: Training, epochs: int, instances: int) -> dict[str, float]:
        """Estimate the cost of an update on this number of instances: counts, tokens, seconds, bytes of memory.

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


def fitted(advised: Training, suits: int) -> Training:
    """A learner's advice in about as many rollouts as suit the policy: fewer steps, and fewer instances in each.

    As advised where ``suits`` is 0.
    """
    if not suits or advised.prompts * advised.steps * advised.group <= suits:
        return advised
    steps = min(advised.steps, FITTED_STEPS)
    prompts = max(FEWEST, suits // (steps * advised.group))
    return advised.model_copy(update={"steps": steps, "prompts": min(advised.prompts, prompts)})
