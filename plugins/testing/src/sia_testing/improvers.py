"""The contract of improvers, for plugin authors to inherit: pure functions of evidence that decide within bounds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.decision import DECISIONS, Change, Decision, RewriteHarness, Stop
from sia_core.evidence import AgentView, Evidence, Rollout, TaskView, Trial, summarise
from sia_core.harness import HarnessTree, applies
from sia_core.playbook import Playbook
from sia_core.types import Improver, Metric

TREE = HarnessTree({"harness.py": b"LEFT = 1\nRIGHT = 1\n\n\ndef solve(instance, ctx):\n    return LEFT + RIGHT\n"})


def _entry(name: str) -> dict[str, Any]:
    change = {"op": "replace", "path": "harness.py", "old": f"{name.upper()} = 1", "new": f"{name.upper()} = 2"}
    return {"name": name, "family": name, "summary": f"double what stands {name}", "change": [change]}


BOOK = Playbook.model_validate({"edit": [_entry("left"), _entry("right")]})


MOMENTS = ("first generation", "after a trial", "without a playbook", "all was tried")


class ImproverContract:
    """``class TestMine(ImproverContract)`` with a fixture ``make``: ``make()`` gives the improver, ready to decide."""

    @pytest.fixture
    def view(self, tmp_path: Path) -> TaskView:
        """An improver's view of a task."""
        return task_view(tmp_path)

    @pytest.fixture(params=MOMENTS)
    def evidence(self, request: pytest.FixtureRequest) -> Evidence:
        """A run's evidence, at several of its moments."""
        return evidence_at(request.param)

    def test_its_first_harness_is_one_and_the_same_one_every_time(
        self, make: Callable[[], Improver], view: TaskView
    ) -> None:
        improver = make()
        assert isinstance(improver, Improver)
        tree = improver.draft(view, 0)
        assert "def solve" in tree.text(tree.manifest.entry)
        assert make().draft(view, 0).digest == tree.digest

    def test_its_decisions_are_typed_and_survive_json(self, make: Callable[[], Improver], evidence: Evidence) -> None:
        decisions = list(make().decide(evidence))
        assert decisions, "to do nothing more is a decision too: Stop"
        assert all(isinstance(each, Decision) for each in decisions)
        assert DECISIONS.validate_json(DECISIONS.dump_json(decisions)) == decisions

    def test_the_same_evidence_gives_the_same_decisions(self, make: Callable[[], Improver], evidence: Evidence) -> None:
        before = copy.deepcopy(evidence)
        one = make()
        first = list(one.decide(evidence))
        assert evidence == before, "it changed the evidence"
        assert list(make().decide(evidence)) == first
        assert list(make().decide(copy.deepcopy(evidence))) == first

    def test_a_decision_pulls_a_lever_of_the_run_on_an_agent_of_the_archive(
        self, make: Callable[[], Improver], evidence: Evidence
    ) -> None:
        for each in _changes(make().decide(evidence)):
            assert each.lever in evidence.levers
            assert each.parent is None or each.parent in evidence.agents

    def test_its_edits_apply_to_the_harness_that_they_are_for(
        self, make: Callable[[], Improver], evidence: Evidence
    ) -> None:
        for each in make().decide(evidence):
            if isinstance(each, RewriteHarness):
                parent = evidence.agents[each.parent or evidence.incumbent]
                assert applies(parent.files, each.edits), f"{each.name} changes nothing, or is out of bounds"

    def test_a_generation_does_not_try_one_thing_twice(self, make: Callable[[], Improver], evidence: Evidence) -> None:
        decisions = [each.model_dump_json(exclude={"reason", "name"}) for each in _changes(make().decide(evidence))]
        assert len(set(decisions)) == len(decisions)


def _changes(decisions: Sequence[Decision]) -> list[Change]:
    return [each for each in decisions if not isinstance(each, Stop)]


def task_view(public: Path) -> TaskView:
    """An improver's view of a task whose public files lie in a folder."""
    return TaskView("sum", "solve", "Add what stands left and right.", Metric("right"), TREE, public)


def plain_evidence(*agents: AgentView, **fields: Any) -> Evidence:
    """Evidence of a run's first generation, whose incumbent is the first agent; other fields by their names."""
    plain: dict[str, Any] = {
        "generation": 0,
        "seed": 0,
        "brief": "",
        "metric": Metric("right"),
        "levers": ("harness",),
        "incumbent": agents[0].id,
        "agents": {each.id: each for each in agents},
        "trials": (),
        "playbook": None,
        "candidates": 2,
        "smallest_gain": 0.05,
        "budget_left": {},
    }
    return Evidence(**{**plain, **fields})


def evidence_at(moment: str) -> Evidence:
    """A run's evidence at one of :data:`MOMENTS`."""
    rollouts = [Rollout(f"i{number}", "ok", float(number % 2)) for number in range(100)]
    first = AgentView("first", TREE.digest, None, None, TREE, (), summarise(rollouts, 0.0))
    plain = plain_evidence(first, brief="Add what stands left and right.", playbook=BOOK)
    tried = tuple(
        Trial(0, "harness", entry.name, None, "first", None, "to see", 0.0, "rejected", "no better", 0.0)
        for entry in BOOK.edit
    )
    if moment == "after a trial":
        return replace(plain, generation=1, trials=tried[:1])
    if moment == "without a playbook":
        return replace(plain, playbook=None)
    return replace(plain, generation=1, trials=tried) if moment == "all was tried" else plain
