"""The harness lever's side of the choice: which edits of the catalogue apply, and what they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.decision import Prediction, RewriteHarness
from sia_core.evidence import AgentView, Evidence
from sia_core.harness import applies, apply_edits
from sia_core.playbook import Entry, Playbook
from sia_playbook.belief import Belief, parents, tries

SPREAD = 0.20
"""The standard deviation of an untried edit's gain, as a share of what its parent has left to gain."""

FAILED = -0.10
"""What an edit that did not even run counts as having earned, as a share of the range too."""


@dataclass(frozen=True)
class EditArm:
    """An edit that applies to an agent, and what it (``own``) and the others of its family earned before.

    ``room`` is what the agent has left to gain.
    """

    entry: Entry
    parent: AgentView
    own: tuple[float, ...]
    others: tuple[float, ...]
    room: float

    @property
    def family(self) -> str:
        return _family(self.entry)

    @property
    def belief(self) -> Belief:
        """Nothing is expected of an untried edit but what its family earned, which is one observation beside its own.

        A family's tries narrow the belief half as much as own ones: alike, not the same. More than
        what its parent has left to gain is expected of none.
        """
        prior = sum(self.others) / (len(self.others) + 1)
        mean = min(self.room, (prior + sum(self.own)) / (1 + len(self.own)))
        return Belief(mean, SPREAD * self.room / math.sqrt(1 + len(self.own) + len(self.others) / 2))

    @property
    def reason(self) -> str:
        """The choice, explained."""
        own = f"it earned {_earned(self.own)} before" if self.own else "it is untried"
        others = (
            f"its family {self.family!r} earned {_earned(self.others)}" if self.others else "no edit like it was tried"
        )
        return f"{self.entry.summary}. On agent {self.parent.id} {own}; {others}. Expected {self.belief}."

    def decision(self, beside: str = "") -> RewriteHarness:
        """The edit as a decision; ``beside`` is said of the other lever."""
        return RewriteHarness(
            name=self.entry.name,
            edits=self.entry.change,
            reason=self.reason + beside,
            prediction=Prediction(gain=round(self.belief.mean, 4)),
            parent=self.parent.id,
        )


def edits(evidence: Evidence) -> list[EditArm] | str:
    """The edits that were not tried yet on the best agent or, where there is none, on the incumbent; or why none."""
    playbook = evidence.playbook
    if playbook is None or not playbook.edit:
        return "the task has no catalogue of edits (playbook.toml), so there is nothing to choose from"
    for parent in (evidence.agents[each] for each in parents(evidence)):
        if arms := edits_of(evidence, playbook, parent):
            return arms
    return _exhausted(evidence, playbook)


def edits_of(evidence: Evidence, playbook: Playbook, parent: AgentView) -> list[EditArm]:
    """The edits that apply to an agent and were not tried on it yet."""
    # A harness that was tried with other weights is another agent, and the edit may earn something else there.
    known = {(agent.harness, agent.adapter) for agent in evidence.agents.values()}
    tried = {(trial.parent, trial.name) for trial in evidence.trials}
    earned = _earned_by_family(evidence, playbook)
    return [
        _arm(evidence, entry, parent, earned.get(_family(entry), ()))
        for entry in playbook.edit
        if (parent.id, entry.name) not in tried
        and entry.name not in parent.edits
        and applies(parent.files, entry.change)
        and (apply_edits(parent.files, entry.change).digest, parent.adapter) not in known
    ]


def _earned_by_family(evidence: Evidence, playbook: Playbook) -> dict[str, list[tuple[str, float]]]:
    """By family, names and gains of the edits that were tried, in order; read once, however many edits there are."""
    families = {entry.name: _family(entry) for entry in playbook.edit}
    earned: dict[str, list[tuple[str, float]]] = {}
    for trial in tries(evidence, "harness", families):
        gain = FAILED * _range(evidence) if trial.gain is None else trial.gain
        earned.setdefault(families[trial.name], []).append((trial.name, gain))
    return earned


def _arm(evidence: Evidence, entry: Entry, parent: AgentView, earned: Sequence[tuple[str, float]]) -> EditArm:
    bounds = evidence.metric.bounds
    own = tuple(gain for name, gain in earned if name == entry.name)
    others = tuple(gain for name, gain in earned if name != entry.name)
    room = max(0.0, bounds[1] - parent.estimate) if bounds else _range(evidence)
    return EditArm(entry, parent, own, others, room)


def _range(evidence: Evidence) -> float:
    """Of the rewards; where nothing bounds them, two deviations of what the incumbent was seen to earn, or 1."""
    if bounds := evidence.metric.bounds:
        return bounds[1] - bounds[0]
    incumbent = evidence.agents[evidence.incumbent]
    seen = incumbent.exploration or (incumbent.search and incumbent.search.stats)
    return 2 * seen.deviation if seen and seen.deviation else 1.0


def _family(entry: Entry) -> str:
    """An edit without a family is one of its own."""
    return entry.family or entry.name


def _exhausted(evidence: Evidence, playbook: Playbook) -> str:
    tried = {trial.name for trial in evidence.trials}
    never = [entry.name for entry in playbook.edit if entry.name not in tried]
    reason = "every edit of the catalogue that applies was tried"
    return reason + (f"; never applied: {', '.join(never)}" if never else "")


def _earned(gains: Sequence[float]) -> str:
    return f"{fmean(gains):+.3f} on average in {len(gains)} {'try' if len(gains) == 1 else 'tries'}"
