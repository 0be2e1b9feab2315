"""Beliefs about a change before it is made, and the choice of the agent to change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sia_core.evidence import AgentView, Evidence, RewardStats

CLEAR = 2.0
"""An agent is clearly better than another if its mean on search exceeds the other's by as many standard errors."""

PLACE = 0.5
"""How far an edit's gain differs from parent to parent, as a share of the deviation of an untried edit's gain."""


@dataclass(frozen=True)
class Belief:
    """The gain of a change is believed to be normal, with this mean and deviation in units of the reward."""

    mean: float
    deviation: float

    @property
    def value(self) -> float:
        """The optimistic value, by which changes are ranked whichever lever they pull."""
        return self.mean + self.deviation

    def after(self, observations: Iterable[tuple[float, float]]) -> Belief:
        """The belief once gains were seen, each with the variance of its distance from the one believed in."""
        if not self.deviation:
            return self
        pairs = [(self.mean, self.deviation**2), *observations]
        precision = math.fsum(1 / variance for _, variance in pairs)
        return Belief(math.fsum(gain / variance for gain, variance in pairs) / precision, precision**-0.5)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class Try:
    """A change that was tried: the name of its edit or its algorithm, and what it earned on held-out search.

    ``gain`` is None where the agent did not run, ``variance`` that of its sampling error;
    ``estimate`` and ``exploration`` are the parent's.
    """

    lever: str
    name: str
    gain: float | None
    variance: float
    estimate: float
    exploration: RewardStats | None = None
    own: bool = True

    def distance(self, spread: float) -> float:
        """The variance of its gain about that of another change, where true gains differ by ``spread``.

        It is taken twice for a try of an earlier run, which so counts half.
        """
        return (self.variance + spread * spread) * (1 if self.own else 2)


def own_tries(evidence: Evidence) -> list[Try]:
    """The changes that this run tried so far, without those that were refused."""
    tries = []
    for trial in evidence.trials:
        if trial.outcome != "refused" and (parent := evidence.agents.get(trial.parent)):
            variance = error(parent, evidence.agents.get(trial.agent or "", parent)) ** 2
            name = trial.algorithm or trial.name
            tries.append(Try(trial.lever, name, trial.gain, variance, parent.estimate, parent.exploration))
    return tries


def error(*agents: AgentView) -> float:
    """The standard error of the difference of two agents' means on search."""
    return math.sqrt(sum(variance(each.search.stats) for each in agents if each.search))


def variance(stats: RewardStats) -> float:
    """The variance of a mean over instances.

    Those of two agents add up as if they had met different instances. That is too much
    rather than too little where both find the same instances hard.
    """
    return stats.deviation**2 / max(1, stats.instances - 1)


def parents(evidence: Evidence) -> list[str]:
    """The agents to change, by id: the incumbent, then the best one that was not promoted, if its estimate is better.

    That one comes first if it is clearly better. None is where no error can be computed, as with one instance.
    """
    incumbent = evidence.agents[evidence.incumbent]
    promoted = {trial.agent for trial in evidence.trials if trial.outcome == "promoted"}
    others = {trial.agent for trial in evidence.trials} - promoted
    refused = [agent for agent in evidence.agents.values() if agent.id in others]
    best = max([incumbent, *refused], key=lambda agent: agent.estimate)
    clear = 0 < CLEAR * error(best, incumbent) < best.estimate - incumbent.estimate
    return list(dict.fromkeys((best.id, incumbent.id) if clear else (incumbent.id, best.id)))
