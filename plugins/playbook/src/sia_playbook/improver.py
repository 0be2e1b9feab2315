"""A bandit over the catalogue's edits and the weight updates: which change next, on which agent, and why.

The gain of a change is believed to be normal; what it and its family earned on held-out
search, in this run and in earlier ones, moves and narrows the belief. The next change is the
one with the highest optimistic value, mean + deviation, whichever lever it pulls. But an
update costs as much as dozens of edits: it waits while the edits that it would cost are
expected to gain more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sia_core.decision import RewriteHarness, Stop, UpdateWeights
from sia_core.errors import UsageError
from sia_core.evidence import Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_core.run import record
from sia_core.run.ledger import readable
from sia_core.run.run_view import RunView
from sia_playbook.belief import Try
from sia_playbook.earlier_runs import folders_of, read_runs, tries_in, try_of
from sia_playbook.edits import EditArm, edits
from sia_playbook.updates import UpdateArm, update

Arm = EditArm | UpdateArm


SEEN = 0.5
"""An edit is promising if this part of the smallest gain that the gate sees is expected of it."""


class Bandit:
    """The improver ``playbook``. With ``algorithm``, updates are by that one, whatever the selection table says.

    ``runs`` are folders of earlier runs, separated by commas. What those of the same task tried is
    recorded as the run begins, so that nothing depends on these folders later.
    """

    def __init__(self, algorithm: str = "", runs: str = "") -> None:
        self._algorithm, self._folders = algorithm, folders_of(runs)
        self._earlier: list[Try] = []

    def check(self) -> None:
        """UsageError where a folder of earlier runs is missing."""
        for folder in self._folders:
            if not folder.is_dir():
                raise UsageError(f"--improver-set runs={folder}: no such folder; name one that holds runs")

    def equip(self, run: RunView) -> None:
        """Read the earlier runs, once a run."""
        started = record.RunRecord(run.ledger).run
        if not self._folders or started is None:
            return

        def work() -> list[dict[str, Any]]:
            tries = read_runs(self._folders, lambda each: tries_in(each, started["task"]), run.notice)
            return [asdict(each) for each in tries]

        with readable(run.ledger.folder):
            self._earlier = [try_of(row) for row in run.ledger.step(record.EARLIER, work)]

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | UpdateWeights | Stop]:
        """As many changes as the run tries at once, of different families while there are any.

        At most one of them is an update.
        """
        if self._algorithm and "weights" in evidence.levers:
            evidence = _only(evidence, self._algorithm)
        options = edits(evidence, self._earlier) if "harness" in evidence.levers else []
        best = update(evidence, self._earlier) if "weights" in evidence.levers else None
        arms: list[Arm] = [] if isinstance(options, str) else [*options]
        arms += [best] if isinstance(best, UpdateArm) else []
        if not arms:
            why = [each for each in (options, best) if isinstance(each, str)]
            return [Stop(reason="; ".join(why) or "the playbook knows none of this run's levers")]
        ranked = _ranked(arms, evidence)
        promising = _promising(ranked, best, evidence)
        others = [arm for arm in ranked if arm not in promising]
        picks = [*promising, *_spread(others)][: evidence.candidates]
        beside = _beside(best, picks, evidence)
        return [arm.decision() if isinstance(arm, UpdateArm) else arm.decision(beside) for arm in picks]


def _only(evidence: Evidence, algorithm: str) -> Evidence:
    """The evidence, with one algorithm alone on offer; UsageError where that one is not."""
    named = tuple(each for each in evidence.algorithms if each.name == algorithm)
    if not named and evidence.algorithms:
        names = ", ".join(each.name for each in evidence.algorithms)
        raise UsageError(f"--improver-set algorithm={algorithm}: this run's engine can train with {names}")
    return replace(evidence, algorithms=named)


def _ranked(arms: list[Arm], evidence: Evidence) -> list[Arm]:
    """The arms, best first. Ties are broken by the run's seed, so that other seeds explore in other orders."""
    random.Random(f"playbook {evidence.seed} {evidence.generation}").shuffle(arms)
    return sorted(arms, key=lambda arm: -arm.belief.value)


def _promising(ranked: Sequence[Arm], best: UpdateArm | str | None, evidence: Evidence) -> list[Arm]:
    """The edits that go first: those that the gate may see, if as many as an update costs are expected to gain more.

    Where nothing bounds the reward the gate counts wins, and no gain says how many there will be.
    """
    if evidence.metric.bounds is None:
        return []
    least = SEEN * evidence.smallest_gain
    visible = [arm for arm in ranked if isinstance(arm, EditArm) and arm.belief.mean >= least]
    gains = sorted((arm.belief.mean for arm in visible), reverse=True)
    if isinstance(best, UpdateArm) and sum(gains[: best.looks(evidence.look)]) < best.belief.mean:
        return []
    return [*visible]


def _spread(arms: Sequence[Arm]) -> list[Arm]:
    """The best arm of each family in turn, then the rest."""
    families: set[str] = set()
    first: list[Arm] = []
    rest: list[Arm] = []
    for arm in arms:
        (rest if arm.family in families else first).append(arm)
        families.add(arm.family)
    return [*first, *rest]


def _beside(best: UpdateArm | str | None, picks: Sequence[Arm], evidence: Evidence) -> str:
    """Why the generation makes no update, where it could have made one; for the reasons of its edits."""
    if best is None or best in picks:
        return ""
    if isinstance(best, str):
        return f" No update: {best}."
    looks = best.looks(evidence.look)
    price = f", for the price of {looks} edits" if looks > 1 else ""
    return (
        f" An update by {best.choice.algorithm} of agent {best.parent.id} can wait: {best.belief} is expected{price}."
    )
