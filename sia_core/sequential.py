"""Looking early at a gate sweep, batch by batch, and ending it where promotion has become improbable.

Promotion may be decided at any look: the gate's evidence is valid whenever one looks.
What early looks save is the rest of a sweep that leads nowhere. Ending a sweep can only
take promotions away, so no rule for it changes the error of a run; it costs power, and
``docs/gate.md`` says how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.evidence import Rollout
from sia_core.gate import bets, betting_wealth, log_wealth
from sia_core.power import chance

FUTILE = 0.02
"""A sweep is ended when its chance of promotion is below this, if the candidate's gain is the optimistic one."""

OPTIMISM = 2.0
"""The optimistic gain: the mean so far, and so many of its standard errors."""


@dataclass(frozen=True)
class Watch:
    """Looks at the gate sweep of one candidate: is it enough?

    ``incumbent`` are the rewards that it is held against: those of the incumbent when the
    generation began, which is the same for all its candidates, whichever is done first.
    """

    incumbent: Sequence[float]
    bounds: tuple[float, float] | None
    alpha: float
    repeats: int

    def __call__(self, done: Sequence[Rollout]) -> bool:
        """Whether the rollouts so far, in their order, say that the rest is not worth its cost."""
        rewards = means([each.reward for each in done], self.repeats)
        return hopeless(bets(self.incumbent, rewards, self.bounds), len(self.incumbent), self.alpha)


def hopeless(seen: Sequence[float], planned: int, alpha: float) -> bool:
    """Whether promotion has become improbable after the first bets of ``planned``."""
    if betting_wealth(seen) >= 1 / alpha:
        return False  # it may be promoted: what is left is wanted for later comparisons
    gain, square = optimistic(seen)
    return chance(planned - len(seen), gain, alpha, square, log_wealth(seen)) < FUTILE


def optimistic(seen: Sequence[float]) -> tuple[float, float]:
    """The largest gain that the bets so far leave plausible, and the mean square of the bets.

    Two more bets, one won and one lost, stand for what was not seen yet.
    """
    n = len(seen) + 2
    mean, square = math.fsum(seen) / n, (math.fsum(each * each for each in seen) + 2) / n
    return min(1.0, max(0.0, mean + OPTIMISM * math.sqrt(max(0.0, square - mean * mean) / n))), square


def means(rewards: Sequence[float], repeats: int) -> tuple[float, ...]:
    """The mean reward of each instance, where ``repeats`` rollouts of each stand side by side."""
    if repeats == 1:
        return tuple(rewards)
    return tuple(fmean(rewards[first : first + repeats]) for first in range(0, len(rewards), repeats))


def within(rewards: Sequence[float], repeats: int) -> float:
    """The variance of one agent's reward on one instance: what repeats can average away. 0 without repeats."""
    if repeats == 1:
        return 0.0
    groups = [rewards[first : first + repeats] for first in range(0, len(rewards), repeats)]
    return fmean(math.fsum((each - fmean(group)) ** 2 for each in group) / (repeats - 1) for group in groups)
