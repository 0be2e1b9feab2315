"""The gate along a run: who is screened out before it, who is stopped on the way, and at which level each is tested.

All of it follows from recorded verdicts, in the order of decisions, and from the state at the beginning of a
generation. How many candidates run at once does not matter, nor where a run was stopped and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

from sia_core.evidence import AgentView, Rollout
from sia_core.run.gate import GRAIN, Comparison, Levels, compare, differences
from sia_core.run.plan import Plan, Samples
from sia_core.run.power import DISCORDANCE, repeated, sees, smallest_gain
from sia_core.types import Task

SCREENED = 64
"""The least search instances on which a candidate may be screened out."""

FUTILE = 0.10
"""A sweep is ended when its chance of promotion is below this, if the candidate's gain is the optimistic one."""

OPTIMISM = 2.0
"""The optimistic gain is the mean so far plus this many of its standard errors."""

_NORMAL = NormalDist()


class Gatekeeper:
    """Decides who is compared, for how long, and who is promoted."""

    def __init__(self, plan: Plan, samples: Samples, task: Task) -> None:
        self._plan, self._samples = plan, samples
        self._bounds, self._span = task.metric.reward_bounds, task.metric.span
        self._screens = task.kind != "discover" and len(samples.search) >= SCREENED
        self.levels = Levels(plan.comparisons, len(samples.gate), plan.earned or 0.0)
        self.discordance = DISCORDANCE
        self._size = len(samples.gate)
        self._squares: list[float] = []
        self._begun = 0
        self._searched: dict[str, tuple[float, ...]] = {}
        self._incumbent = ""
        self._rewards: tuple[float, ...] = ()

    def first(self, agent: AgentView, searched: Sequence[float], rewards: Sequence[float]) -> None:
        """Begin with the first agent, its rewards on search, and those of all its rollouts on the gate."""
        self.saw(agent.id, searched)
        if self._plan.repeats > 1:
            self.discordance = repeated(within(rewards, self._plan.repeats) / self._span**2, self._plan.repeats)

    def begin(self, generation: int, incumbent: str, rewards: Sequence[float]) -> str:
        """Begin a generation; why no candidate of it could be promoted, if none could."""
        self._begun, self._incumbent, self._rewards = generation * self._plan.candidates, incumbent, tuple(rewards)
        return "" if self.levels.level(self._begun) else f"{self.levels.gated} comparisons used up the gate's error"

    def saw(self, agent: str, searched: Sequence[float]) -> None:
        """Note an agent's rewards on the search sample."""
        self._searched[agent] = tuple(searched)

    def screens_out(self, searched: Sequence[float]) -> str:
        """Why a candidate does not go to the gate; empty if it does. By search alone, so improvers may know it."""
        incumbent = self._searched.get(self._incumbent, ())
        if not self._screens or len(searched) != len(incumbent):
            return ""
        steps = differences(incumbent, searched, self._bounds)
        if not any(steps):
            return f"it earns what the incumbent does on each of {len(searched):,} search instances"
        if sum(steps) >= 0:
            return ""
        change = f"by {fmean(incumbent) - fmean(searched):.4f} worse in the mean"
        return f"not better than the incumbent on {len(searched):,} search instances ({change})"

    def watch(self, index: int) -> Watch:
        """The looks at the sweep of a generation's candidate of this index."""
        level = self.levels.level(self._begun + index, hoped=index)
        return Watch(self._rewards, self._bounds, level, self._samples.repeats)

    def judge(self, index: int, incumbent: Sequence[float], rewards: Sequence[float]) -> Comparison:
        """Compare a candidate with the incumbent of this moment, at the level that is its turn."""
        return compare(incumbent, rewards, bounds=self._bounds, level=self.levels.level(self._begun + index))

    def book(self, row: Mapping[str, Any], searched: Sequence[float]) -> None:
        """Book a recorded verdict, and how far apart candidate and parent were on search."""
        self.levels = self.levels.following([row])
        if row["agent"] and searched:
            self.saw(row["agent"], searched)
            if parent := self._searched.get(row["parent"]):
                scale = 1.0 if self._bounds is None else GRAIN
                self._squares.append(fmean((each * scale) ** 2 for each in differences(parent, searched, self._bounds)))
                if self._plan.repeats == 1:
                    self.discordance = max(0.01, fmean(self._squares))

    def sees(self) -> dict[str, Any]:
        """The gains that the gate can see at first, and the number of search instances held out of training."""
        held_out = len(self._samples.search) if not {*self._samples.search} & {*self._samples.training} else 0
        about = {"held_out": held_out, "training": len(self._samples.training)}
        return {**sees(self.levels, self._bounds, self.discordance), **about}

    def smallest_gain(self, comparisons: int) -> float:
        """The smallest gain that it sees now, where ``comparisons`` were possible so far."""
        return smallest_gain(self._size, self.levels.level(comparisons), self.discordance) * self._span


# Looks at a sweep. They can only take a promotion away, so no rule for them changes the error of a run.


@dataclass(frozen=True)
class Watch:
    """Looks at the gate sweep of one candidate: is it enough?

    ``incumbent`` are the rewards of the incumbent when the generation began, which is the same
    for all its candidates, whichever is done first.
    """

    incumbent: Sequence[float]
    bounds: tuple[float, float] | None
    level: float
    repeats: int

    def __call__(self, rollouts: Sequence[Rollout]) -> bool:
        """Whether the rollouts so far, in their order, say that the rest is not worth its cost."""
        rewards = means([each.reward for each in rollouts], self.repeats)
        scale = 1.0 if self.bounds is None else GRAIN
        steps = [step * scale for step in differences(self.incumbent, rewards, self.bounds)]
        return hopeless(steps, len(self.incumbent), self.level)


def hopeless(steps: Sequence[float], planned: int, level: float) -> bool:
    """Whether promotion has become improbable after the first differences, in [-1, 1], of ``planned``."""
    if level <= 0:
        return True
    gain, square = optimistic(steps)
    remaining = planned - len(steps)
    threshold = -_NORMAL.inv_cdf(min(0.5, level)) * math.sqrt(planned * square)
    spread = math.sqrt(remaining * max(0.0, square - gain * gain)) or 1e-9
    return _NORMAL.cdf((math.fsum(steps) + remaining * gain - threshold) / spread) < FUTILE


def optimistic(steps: Sequence[float]) -> tuple[float, float]:
    """The largest gain that the differences so far leave plausible, and their mean square.

    Two more differences, one won and one lost, each the largest there was, stand for what was not seen yet.
    """
    n, largest = len(steps) + 2, max(map(abs, steps), default=0.0) or 1.0
    mean, square = math.fsum(steps) / n, (math.fsum(each * each for each in steps) + 2 * largest**2) / n
    return min(1.0, mean + OPTIMISM * math.sqrt(max(0.0, square - mean * mean) / n)), square


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
