"""The contract of levers, for plugin authors to inherit: plans that follow from what the lever was shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.decision import Change, PullLever
from sia_core.evidence import AgentView
from sia_core.harness import HarnessTree
from sia_core.run.allowance import Allowance
from sia_core.run.ledger import Ledger
from sia_core.run.levers import Lever, LeverRun
from sia_testing.fakes import fake_parts
from sia_testing.improvers import evidence_at

Begun = Callable[[], Lever]


class LeverContract:
    """``class TestMine(LeverContract)`` with fixtures ``make``, which gives the lever, and ``decision`` to plan.

    The decision may name the agents ``first`` and ``other``, whose ``harness.py`` differ.
    """

    @pytest.fixture
    def begun(self, make: Callable[[], Lever], tmp_path: Path) -> Iterator[Begun]:
        """A function that gives the lever, new each time, after it has looked at the archive of a run."""
        with Ledger.create(tmp_path / "run") as ledger:
            yield lambda: begin(make(), ledger)

    def test_its_costs_are_amounts_before_there_is_a_run(self, make: Callable[[], Lever]) -> None:
        lever = make()
        assert isinstance(lever, Lever)
        for cost in (lever.look_cost(256), lever.pull_cost(256), lever.look_cost(1)):
            assert all(math.isfinite(amount) and amount >= 0 for amount in cost.kinds.values())

    def test_the_same_decision_gives_the_same_plan(self, begun: Begun, decision: Change) -> None:
        lever = begun()
        plan = lever.plan(decision, ARCHIVE["first"])
        assert lever.plan(decision, ARCHIVE["first"]) == plan
        assert begun().plan(decision, ARCHIVE["first"]) == plan

    def test_a_plan_refuses_or_makes_an_agent_or_has_an_estimate(self, begun: Begun, decision: Change) -> None:
        plan = begun().plan(decision, ARCHIVE["first"])
        assert not (plan.refused and plan.agent)
        assert all(amount >= 0 for amount in plan.estimate.values())

    def test_settings_that_nobody_meant_are_refused_with_a_reason(self, begun: Begun, decision: Change) -> None:
        if isinstance(decision, PullLever) and decision.settings:
            for settings in ({"nonsense": [1, None]}, dict.fromkeys(decision.settings)):
                wrong = decision.model_copy(update={"settings": settings})
                assert begun().plan(wrong, ARCHIVE["first"]).refused

    def test_it_adds_to_the_evidence_and_changes_nothing_of_it(self, begun: Begun) -> None:
        lever, evidence = begun(), replace(evidence_at("first generation"), agents=ARCHIVE)
        described = lever.describe(evidence)
        assert lever.describe(evidence) == described
        assert replace(described, about=evidence.about, algorithms=(), weights=None) == evidence


def begin(lever: Lever, ledger: Ledger) -> Lever:
    """The lever, in a run without a policy whose archive it has looked at."""
    of = fake_parts(ledger, None)
    search = tuple(each.id for each in of.task.instances("search"))
    parts = (of.task, of.plugins, ledger, of.trees, of.rollouts, of.budget, of.emit)
    lever.begin(LeverRun(*parts, search, search, of.can, lambda count: ()))
    for agent in ARCHIVE.values():
        lever.look(agent, Allowance())
    lever.describe(replace(evidence_at("first generation"), agents=ARCHIVE))
    return lever


def _archive() -> dict[str, AgentView]:
    first = evidence_at("first generation").agents["first"]
    tree = HarnessTree({"harness.py": first.files.text("harness.py").replace("LEFT = 1", "LEFT = 3").encode()})
    return {"first": first, "other": replace(first, id="other", files=tree, harness=tree.digest, parent="first")}


ARCHIVE = _archive()
"""The agents that a lever is shown."""
