"""What is believed of a change before it is made, and what earlier ones came to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sia_core.evidence import Evidence, Trial


@dataclass(frozen=True)
class Belief:
    """The gain of a change is believed to be normal, with this mean and deviation in units of the reward."""

    mean: float
    deviation: float

    @property
    def value(self) -> float:
        """The optimistic value, by which changes are ranked whichever lever they pull."""
        return self.mean + self.deviation

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.deviation:.3f}"


def tries(evidence: Evidence, lever: str, names: Collection[str]) -> list[Trial]:
    """The trials of changes of these names. What was refused was not tried."""
    return [
        trial
        for trial in evidence.trials
        if trial.lever == lever and trial.name in names and trial.outcome != "refused"
    ]


def parents(evidence: Evidence) -> list[str]:
    """The agents to change, by id: the best estimate, promoted or not; then the incumbent."""
    best = max(evidence.agents.values(), key=lambda agent: (agent.estimate, agent.id == evidence.incumbent))
    return list(dict.fromkeys((best.id, evidence.incumbent)))
