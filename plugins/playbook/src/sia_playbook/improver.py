"""A bandit over the catalogue: which edit next, on which agent, and why.

The gain of an edit is believed to be normal. Before it was tried its mean is what
its family earned (shrunk towards zero) and its deviation wide; each try narrows it.
The next edit is the one with the highest optimistic value, mean + deviation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.decision import Prediction, RewriteHarness, Stop
from sia_core.evidence import AgentView, Evidence, TaskView
from sia_core.harness import HarnessTree, applies, apply_edits
from sia_core.playbook import Entry, Playbook

SPREAD = 0.10
"""The standard deviation of an untried edit's gain, as a share of the reward's range."""

FAILED = -0.10
"""What an edit that did not even run counts as having earned, as a share of the range too."""


@dataclass(frozen=True)
class Arm:
    """An edit that applies to an agent, and what is believed of it."""

    entry: Entry
    parent: AgentView
    own: tuple[float, ...]
    family: tuple[float, ...]
    scale: float

    @property
    def mean(self) -> float:
        """Posterior mean: the family's mean as one more observation beside the edit's own gains."""
        prior = sum(self.family) / (len(self.family) + 1)
        return (prior + sum(self.own)) / (1 + len(self.own))

    @property
    def deviation(self) -> float:
        """Posterior deviation. A family's tries count as half an own one each: alike, not the same."""
        return SPREAD * self.scale / math.sqrt(1 + len(self.own) + len(self.family) / 2)

    @property
    def value(self) -> float:
        return self.mean + self.deviation

    @property
    def reason(self) -> str:
        """The choice, explained."""
        own = f"it earned {fmean(self.own):+.3f} in {_tries(self.own)} before" if self.own else "it is untried"
        family = (
            f"its family {self.entry.family!r} earned {fmean(self.family):+.3f} on average in {_tries(self.family)}"
            if self.family
            else "no edit like it was tried"
        )
        return (
            f"{self.entry.summary}. On agent {self.parent.id} {own}; {family}. "
            f"Expected {self.mean:+.3f} ± {self.deviation:.3f}."
        )


class Bandit:
    """The improver ``playbook``."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | Stop]:
        """As many edits as the run tries at once, of different families while there are any."""
        if "harness" not in evidence.levers:
            return [Stop(reason="the playbook edits harnesses, and the harness lever is not part of this run")]
        if evidence.playbook is None or not evidence.playbook.edit:
            return [
                Stop(reason="the task has no catalogue of edits (playbook.toml), so there is nothing to choose from")
            ]
        arms = ranked(evidence, evidence.playbook)
        if not arms:
            return [Stop(reason=_exhausted(evidence, evidence.playbook))]
        return [_decision(arm) for arm in _spread(arms, evidence.candidates)]


def ranked(evidence: Evidence, playbook: Playbook) -> list[Arm]:
    """The arms, best first. Ties are broken by the run's seed, so that other seeds explore in other orders."""
    known = {agent.harness for agent in evidence.agents.values()}
    tried = {(trial.parent, trial.name) for trial in evidence.trials}
    low, high = evidence.metric.bounds or (0.0, 1.0)
    arms = []
    for parent in parents(evidence):
        for entry in playbook.edit:
            if (parent.id, entry.name) in tried or entry.name in parent.edits:
                continue
            if not applies(parent.files, entry.change):
                continue
            if apply_edits(parent.files, entry.change).digest not in known:
                arms.append(Arm(entry, parent, *_gains(evidence, playbook, entry, high - low), high - low))
        if arms:
            break
    random.Random(f"playbook {evidence.seed} {evidence.generation}").shuffle(arms)
    return sorted(arms, key=lambda arm: -arm.value)


def parents(evidence: Evidence) -> list[AgentView]:
    """Whom to edit: the best estimate, promoted or not; then the incumbent."""
    best = max(evidence.agents.values(), key=lambda agent: (agent.estimate, agent.id == evidence.incumbent))
    incumbent = evidence.agents[evidence.incumbent]
    return [best] if best.id == incumbent.id else [best, incumbent]


def _gains(
    evidence: Evidence, playbook: Playbook, entry: Entry, scale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What the edit earned, and what the others of its family earned, each against its own parent."""
    relatives = {other.name for other in playbook.edit if _family(other) == _family(entry)} - {entry.name}
    gains = [
        (trial.name, FAILED * scale if trial.gain is None else trial.gain)
        for trial in evidence.trials
        if trial.outcome != "refused"
    ]
    own = tuple(gain for name, gain in gains if name == entry.name)
    return own, tuple(gain for name, gain in gains if name in relatives)


def _family(entry: Entry) -> str:
    """An edit without a family is one of its own."""
    return entry.family or entry.name


def _exhausted(evidence: Evidence, playbook: Playbook) -> str:
    tried = {trial.name for trial in evidence.trials}
    never = [entry.name for entry in playbook.edit if entry.name not in tried]
    reason = "every edit of the catalogue that applies was tried"
    return reason + (f"; never applied: {', '.join(never)}" if never else "")


def _spread(arms: Sequence[Arm], count: int) -> list[Arm]:
    """The best arm of each family in turn, then the rest."""
    seen: set[str] = set()
    first: list[Arm] = []
    rest: list[Arm] = []
    for arm in arms:
        (rest if _family(arm.entry) in seen else first).append(arm)
        seen.add(_family(arm.entry))
    return [*first, *rest][:count]


def _decision(arm: Arm) -> RewriteHarness:
    return RewriteHarness(
        name=arm.entry.name,
        edits=arm.entry.change,
        reason=arm.reason,
        prediction=Prediction(gain=round(arm.mean, 4)),
        parent=arm.parent.id,
    )


def _tries(gains: Sequence[float]) -> str:
    return "1 try" if len(gains) == 1 else f"{len(gains)} tries"
