"""A bandit over the catalogue's edits and the weight updates: which change next, on which agent, and why.

The gain of a change is believed to be normal; what it and its family earned moves and
narrows the belief. The next change is the one with the highest optimistic value,
mean + deviation, whichever lever it pulls. Edits whose likes earned what the gate can see
go before all others, since an update costs as much as dozens of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sia_core.decision import RewriteHarness, Stop, UpdateWeights
from sia_core.errors import UsageError
from sia_core.evidence import Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_playbook.edits import EditArm, edits
from sia_playbook.updates import UpdateArm, update

Arm = EditArm | UpdateArm


class Bandit:
    """The improver ``playbook``. With ``algorithm``, updates are by that one, whatever the selection table says."""

    def __init__(self, algorithm: str = "") -> None:
        self._algorithm = algorithm

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | UpdateWeights | Stop]:
        """As many changes as the run tries at once, of different families while there are any.

        At most one of them is an update.
        """
        if self._algorithm and "weights" in evidence.levers:
            evidence = _only(evidence, self._algorithm)
        found = edits(evidence) if "harness" in evidence.levers else []
        best = update(evidence) if "weights" in evidence.levers else None
        arms: list[Arm] = [] if isinstance(found, str) else [*found]
        arms += [best] if isinstance(best, UpdateArm) else []
        if not arms:
            why = [each for each in (found, best) if isinstance(each, str)]
            return [Stop(reason="; ".join(why) or "the playbook knows none of this run's levers")]
        ranked = _ranked(arms, evidence)
        proven = [arm for arm in ranked if _proven(arm, evidence)]
        others = [arm for arm in ranked if not _proven(arm, evidence)]
        chosen = [*proven, *_spread(others)][: evidence.candidates]
        beside = _beside(best, chosen)
        return [arm.decision() if isinstance(arm, UpdateArm) else arm.decision(beside) for arm in chosen]


def _only(evidence: Evidence, algorithm: str) -> Evidence:
    """The evidence, with one algorithm alone on offer; UsageError where that one is not."""
    named = tuple(each for each in evidence.algorithms if each.name == algorithm)
    if not named and evidence.algorithms:
        known = ", ".join(each.name for each in evidence.algorithms)
        raise UsageError(f"--improver-set algorithm={algorithm}: this run's engine can train with {known}")
    return replace(evidence, algorithms=named)


def _ranked(arms: list[Arm], evidence: Evidence) -> list[Arm]:
    """The arms, best first. Ties are broken by the run's seed, so that other seeds explore in other orders."""
    random.Random(f"playbook {evidence.seed} {evidence.generation}").shuffle(arms)
    return sorted(arms, key=lambda arm: -arm.belief.value)


def _proven(arm: Arm, evidence: Evidence) -> bool:
    """Whether it is an edit of a kind that earned so much that the gate would see as much again.

    Where nothing bounds the reward the gate counts wins, and no gain says how many there will be.
    """
    bounded = evidence.metric.bounds is not None
    return bounded and isinstance(arm, EditArm) and arm.belief.mean >= evidence.smallest_gain


def _spread(arms: Sequence[Arm]) -> list[Arm]:
    """The best arm of each family in turn, then the rest."""
    seen: set[str] = set()
    first: list[Arm] = []
    rest: list[Arm] = []
    for arm in arms:
        (rest if arm.family in seen else first).append(arm)
        seen.add(arm.family)
    return [*first, *rest]


def _beside(best: UpdateArm | str | None, chosen: Sequence[Arm]) -> str:
    """Why the generation makes no update, where it could have made one; for the reasons of its edits."""
    if best is None or best in chosen:
        return ""
    if isinstance(best, str):
        return f" No update: {best}."
    return f" An update by {best.choice.algorithm} of agent {best.parent.id} can wait: {best.belief} is expected."
