"""Improvers that choose without learning from what they see: what a choice on evidence is to be compared with.

Each chooses from the same catalogue and the same learners as ``playbook``, so that only
the choice differs: by a fixed rule, by chance, or by chance from the first agent alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sia_core.decision import Prediction, RewriteHarness, Stop, UpdateWeights
from sia_core.evidence import AgentView, Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_playbook.edits import EditArm, edits_of
from sia_playbook.updates import fitted

Change = RewriteHarness | UpdateWeights


class _Reference:
    """Base of the reference improvers: the task's own harness to begin with, and chance by the run's seed."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def _chance(self, evidence: Evidence) -> random.Random:
        return random.Random(f"{type(self).__name__} {evidence.seed} {evidence.generation}")


class FixedAlternation(_Reference):
    """The improver ``fixed-alternation``: a generation of edits, then an update, and so on, whatever they earn."""

    def decide(self, evidence: Evidence) -> Sequence[Change | Stop]:
        """The lever whose turn it is; the other where that one has nothing left."""
        agent, chance = evidence.agents[evidence.incumbent], self._chance(evidence)
        edits = _edits(evidence, agent, chance)[: evidence.candidates]
        updates = updates_of(evidence, agent, chance)[:1]
        turns = (edits, updates) if evidence.generation % 2 == 0 else (updates, edits)
        return turns[0] or turns[1] or [_nothing()]


class RandomChoice(_Reference):
    """The improver ``random-choice``: lever, edit and algorithm by chance, on the incumbent."""

    def decide(self, evidence: Evidence) -> Sequence[Change | Stop]:
        """Each candidate's lever by the toss of a coin, while both have something left; at most one update."""
        agent, chance = evidence.agents[evidence.incumbent], self._chance(evidence)
        return _drawn(evidence, agent, chance) or [_nothing()]


class BestOfN(_Reference):
    """The improver ``best-of-n``: changes of the first agent by chance, the best of which stays. Plain sampling.

    Nothing is built on anything: each sample is one change away from the beginning.
    """

    def decide(self, evidence: Evidence) -> Sequence[Change | Stop]:
        """Samples that were not drawn before."""
        first = next(agent for agent in evidence.agents.values() if agent.parent is None)
        return _drawn(evidence, first, self._chance(evidence)) or [_nothing()]


def _drawn(evidence: Evidence, agent: AgentView, chance: random.Random) -> list[Change]:
    edits, updates = _edits(evidence, agent, chance), updates_of(evidence, agent, chance)[:1]
    drawn: list[Change] = []
    while len(drawn) < evidence.candidates and (edits or updates):
        if updates and (not edits or chance.random() < 0.5):
            drawn.append(updates.pop())
        else:
            drawn.append(edits.pop())
    return drawn


def _edits(evidence: Evidence, agent: AgentView, chance: random.Random) -> list[RewriteHarness]:
    """The edits of an agent that were not tried, in random order."""
    if "harness" not in evidence.levers or evidence.playbook is None:
        return []
    arms = edits_of(evidence, evidence.playbook, agent)
    chance.shuffle(arms)
    return [_edit(arm) for arm in arms]


def _edit(arm: EditArm) -> RewriteHarness:
    return RewriteHarness(
        name=arm.entry.name,
        edits=arm.entry.change,
        reason=f"{arm.entry.summary}. Not chosen for what it promises.",
        prediction=Prediction(gain=0.0),
        parent=arm.parent.id,
    )


def updates_of(evidence: Evidence, agent: AgentView, chance: random.Random) -> list[UpdateWeights]:
    """An update of an agent by each learner that has no objection, fits the budget and was not tried, shuffled."""
    if "weights" not in evidence.levers or evidence.weights is None or evidence.weights.refused:
        return []
    tried = {trial.name for trial in evidence.trials if trial.parent == agent.id and trial.lever == "weights"}
    updates = []
    for learner in evidence.algorithms:
        training = fitted(evidence, learner, agent)
        if training is not None and not learner.objections.get(agent.id, ()) and learner.name not in tried:
            updates.append(
                UpdateWeights(
                    algorithm=learner.name,
                    training=training,
                    reason=f"{learner.summary}. Not chosen for what it promises.",
                    prediction=Prediction(gain=0.0),
                    parent=agent.id,
                )
            )
    chance.shuffle(updates)
    return updates


def _nothing() -> Stop:
    return Stop(reason="nothing that applies is left untried")
