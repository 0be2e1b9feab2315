"""The harness lever's side of the choice: which edits of the catalogue apply, and what they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from sia_core.decision import Prediction, RewriteHarness
from sia_core.evidence import AgentView, Evidence
from sia_core.harness import applies, apply_edits
from sia_core.playbook import Entry, Playbook
from sia_playbook.belief import PLACE, Belief, Try, own_tries, parents

SPREAD = 0.20
"""The standard deviation of an untried edit's gain, as a share of what its parent has left to gain."""

FAILED = -0.10
"""The gain counted for an edit that did not even run, as a share of the range too."""


@dataclass(frozen=True)
class EditArm:
    """An edit that applies to an agent, its own tries on other agents, and those of the others of its family.

    ``room`` is what the agent has left to gain, and ``failed`` what a try that did not run counts as.
    """

    entry: Entry
    parent: AgentView
    own: tuple[Try, ...]
    others: tuple[Try, ...]
    room: float
    failed: float

    @property
    def family(self) -> str:
        return _family(self.entry)

    @cached_property
    def belief(self) -> Belief:
        """Half of the variance of an untried edit's gain is its family's, and the other half its own.

        Other edits of the family tell of the first half, its own tries of both. It begins with what the
        author of the edit expects. More than what its parent has left to gain is expected of none.
        """
        spread = SPREAD * self.room
        half, place = spread * math.sqrt(0.5), spread * PLACE
        alike = [(self._worth(each), each.distance(math.hypot(half, place))) for each in self.others]
        family = Belief(0.0, half).after(alike)
        untried = Belief(family.mean + self.entry.gain, math.hypot(family.deviation, half))
        belief = untried.after([(self._worth(each), each.distance(place)) for each in self.own])
        return replace(belief, mean=min(self.room, belief.mean))

    @property
    def reason(self) -> str:
        """The choice, explained."""
        own = f"; elsewhere it earned {self._earned(self.own)}" if self.own else ""
        others = (
            f"its family {self.family!r} earned {self._earned(self.others)}"
            if self.others
            else "no edit like it was tried"
        )
        return f"{self.entry.summary}. On agent {self.parent.id} it is untried{own}; {others}. Expected {self.belief}."

    def _gain(self, earlier: Try) -> float:
        return self.failed if earlier.gain is None else earlier.gain

    def _worth(self, earlier: Try) -> float:
        """Its gain here. One on a parent that had more left to gain counts as the same share of what is left now."""
        gain, then = self._gain(earlier), self.room + self.parent.estimate - earlier.estimate
        return gain * self.room / max(self.room, then) if gain > 0 and self.room else gain

    def _earned(self, tries: Sequence[Try]) -> str:
        gain = fmean(map(self._gain, tries))
        earlier = sum(not each.own for each in tries)
        where = f" ({earlier} in earlier runs)" if earlier else ""
        return f"{gain:+.3f} on average in {len(tries)} {'try' if len(tries) == 1 else 'tries'}{where}"

    def decision(self, beside: str = "") -> RewriteHarness:
        """The edit as a decision; ``beside`` is said of the other lever."""
        return RewriteHarness(
            name=self.entry.name,
            edits=self.entry.change,
            reason=self.reason + beside,
            prediction=Prediction(gain=round(self.belief.mean, 4)),
            parent=self.parent.id,
        )


def edits(evidence: Evidence, earlier: Sequence[Try] = ()) -> list[EditArm] | str:
    """The edits that were not tried yet on the first of the agents to change that has any left; or why none."""
    playbook = evidence.playbook
    if playbook is None or not playbook.edit:
        return "the task has no catalogue of edits (playbook.toml), so there is nothing to choose from"
    for parent in (evidence.agents[each] for each in parents(evidence)):
        if arms := edits_of(evidence, playbook, parent, earlier):
            return arms
    return _exhausted(evidence, playbook)


def edits_of(evidence: Evidence, playbook: Playbook, parent: AgentView, earlier: Sequence[Try] = ()) -> list[EditArm]:
    """The edits that apply to an agent and were not tried on it yet, those that were refused on another among them."""
    # A harness that was tried with other weights is another agent, and the edit may earn something else there.
    agents = {(agent.harness, agent.adapter) for agent in evidence.agents.values()}
    tried = {(trial.parent, trial.name) for trial in evidence.trials}
    tries = _by_family(playbook, [*earlier, *own_tries(evidence)])
    return [
        _arm(evidence, entry, parent, tries.get(_family(entry), ()))
        for entry in playbook.edit
        if (parent.id, entry.name) not in tried
        and entry.name not in parent.edits
        and applies(parent.files, entry.change)
        and (apply_edits(parent.files, entry.change).digest, parent.adapter) not in agents
    ]


def _by_family(playbook: Playbook, tries: Sequence[Try]) -> dict[str, list[Try]]:
    """The tries of the catalogue's edits by family, in order; read once, however many edits there are."""
    families = {entry.name: _family(entry) for entry in playbook.edit}
    by_family: dict[str, list[Try]] = {}
    for each in tries:
        if each.lever == "harness" and each.name in families:
            by_family.setdefault(families[each.name], []).append(each)
    return by_family


def _arm(evidence: Evidence, entry: Entry, parent: AgentView, tries: Sequence[Try]) -> EditArm:
    bounds = evidence.metric.reward_bounds
    own = tuple(each for each in tries if each.name == entry.name)
    others = tuple(each for each in tries if each.name != entry.name)
    room = max(0.0, bounds[1] - parent.estimate) if bounds else _range(evidence)
    return EditArm(entry, parent, own, others, room, FAILED * _range(evidence))


def _range(evidence: Evidence) -> float:
    """Of the rewards; where nothing bounds them, two deviations of what the incumbent was seen to earn, or 1."""
    if bounds := evidence.metric.bounds:
        return bounds[1] - bounds[0]
    incumbent = evidence.agents[evidence.incumbent]
    stats = incumbent.exploration or (incumbent.search and incumbent.search.stats)
    return 2 * stats.deviation if stats and stats.deviation else 1.0


def _family(entry: Entry) -> str:
    """The family of an edit; an edit without one is the only member of its family."""
    return entry.family or entry.name


def _exhausted(evidence: Evidence, playbook: Playbook) -> str:
    tried = {trial.name for trial in evidence.trials}
    never = [entry.name for entry in playbook.edit if entry.name not in tried]
    reason = "every edit of the catalogue that applies was tried"
    return reason + (f"; never applied: {', '.join(never)}" if never else "")
