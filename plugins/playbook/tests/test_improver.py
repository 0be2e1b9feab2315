"""Choices of the playbook improver, and their reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sia_core.decision import RewriteHarness, Stop
from sia_core.evidence import AgentView, Evidence, Rollout, TaskView, Trial, summarise
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_playbook.improver import Bandit
from sia_testing.fakes import FakeTask
from sia_testing.improvers import plain_evidence

TREE = HarnessTree({"harness.py": b"A = 1\nB = 1\nC = 1\nD = 1\n"})


def entry(name: str, family: str) -> dict[str, Any]:
    """An edit that sets the constant of its first letter to its number."""
    change = {"op": "replace", "path": "harness.py", "old": f"{name[0]} = 1", "new": f"{name[0]} = {name[1:]}"}
    return {"name": name, "family": family, "summary": f"set {name[0]}", "change": [change]}


BOOK = Playbook.model_validate(
    {"edit": [entry("A2", "one"), entry("A3", "one"), entry("B2", "two"), entry("C2", "three"), entry("D2", "three")]}
)


def agent(name: str, tree: HarnessTree = TREE, estimate: float = 0.5, edits: tuple[str, ...] = ()) -> AgentView:
    right = round(100 * estimate)
    rollouts = [Rollout(f"i{index}", "ok", float(index < right)) for index in range(100)]
    return AgentView(name, tree.digest, None, None, tree, edits, summarise(rollouts, 0.0))


def evidence(*agents: AgentView, trials: tuple[Trial, ...] = (), **changes: Any) -> Evidence:
    fields = {"generation": len(trials), "incumbent": "first", "trials": trials, "playbook": BOOK}
    return plain_evidence(*(agents or (agent("first"),)), **{**fields, **changes})


def trial(
    name: str, gain: float | None, parent: str = "first", outcome: str = "rejected", agent: str | None = None
) -> Trial:
    return Trial(0, "harness", name, None, parent, agent, "", 0.0, outcome, "", gain)


def names(view: Evidence) -> list[str]:
    return [each.name for each in Bandit().decide(view) if isinstance(each, RewriteHarness)]


def stopped(view: Evidence) -> str:
    (decision,) = Bandit().decide(view)
    assert isinstance(decision, Stop)
    return decision.reason


def test_the_first_harness_is_the_tasks_own() -> None:
    task = FakeTask()
    view = TaskView(task.name, task.kind, task.brief, task.metric, task.seed_harness(), task.public_dir(("public",)))
    assert Bandit().draft(view, 0).digest == task.seed_harness().digest


def test_a_generation_tries_edits_of_different_families() -> None:
    for seed in range(20):
        first, second = names(evidence(seed=seed))
        assert first[0] != second[0]
        assert {first[0], second[0]} != {"C", "D"}


def test_other_seeds_explore_in_other_orders_and_the_same_seed_in_the_same() -> None:
    orders = [tuple(names(evidence(seed=seed))) for seed in range(20)]
    assert len(set(orders)) > 3
    assert orders == [tuple(names(evidence(seed=seed))) for seed in range(20)]


def test_what_its_author_expects_of_an_edit_has_it_tried_first_and_is_what_is_predicted() -> None:
    book = Playbook(edit=tuple(each.model_copy(update={"gain": 0.1 * (each.name == "D2")}) for each in BOOK.edit))
    for seed in range(20):
        first, *_ = Bandit().decide(evidence(seed=seed, playbook=book))
        assert isinstance(first, RewriteHarness)
        assert first.name == "D2"
        assert first.prediction.gain == pytest.approx(0.1)


def test_a_catalogue_without_expectations_is_recorded_as_before_there_were_any() -> None:
    assert "gain" not in BOOK.model_dump(mode="json")["edit"][0]
    hopeful = BOOK.edit[0].model_copy(update={"gain": 0.1})
    assert hopeful.model_dump(mode="json")["gain"] == 0.1


def test_a_family_that_earned_is_tried_on_and_one_that_cost_is_left_for_later() -> None:
    good = names(evidence(trials=(trial("C2", 0.2), trial("A2", -0.2))))
    assert good[0] == "D2"
    assert good[1] == "B2"


def test_an_edit_that_did_not_even_run_counts_as_a_loss() -> None:
    assert "A3" not in names(evidence(trials=(trial("A2", None, outcome="failed"),)))


def test_an_edit_that_was_refused_for_want_of_budget_counts_for_nothing() -> None:
    refused = trial("A2", None, outcome="refused")
    assert "A3" in names(evidence(trials=(refused,), candidates=4))
    decisions = Bandit().decide(evidence(trials=(refused,), candidates=4))
    assert [each.prediction.gain for each in decisions if isinstance(each, RewriteHarness) and each.name == "A3"] == [
        0.0
    ]


def test_an_edit_is_not_tried_twice_on_one_agent_nor_again_on_its_descendants() -> None:
    everything = tuple(trial(each.name, 0.0) for each in BOOK.edit)
    assert "every edit" in stopped(evidence(trials=everything))
    child = HarnessTree({"harness.py": b"A = 1\nB = 2\nC = 1\nD = 1\n"})
    promoted = tuple(replace(each, agent="child" if each.name == "B2" else None) for each in everything)
    agents = (agent("first"), agent("child", child, 0.6, ("B2",)))
    edits = names(evidence(*agents, trials=promoted, incumbent="child", candidates=9))
    assert sorted(edits) == ["A2", "A3", "C2", "D2"]


BETTER = HarnessTree({"harness.py": b"A = 2\nB = 1\nC = 1\nD = 1\n"})


def parents_of(view: Evidence) -> set[str | None]:
    return {each.parent for each in Bandit().decide(view) if isinstance(each, RewriteHarness)}


@pytest.mark.parametrize(("estimate", "parent"), [(0.4, "first"), (0.62, "first"), (0.66, "other")])
def test_it_goes_on_from_the_incumbent_unless_another_agent_is_better_by_two_standard_errors(
    estimate: float, parent: str
) -> None:
    """One standard error is 0.07 here, as each agent is estimated on 100 instances."""
    other = agent("other", BETTER, estimate)
    for outcome in ("rejected", "screened"):
        tried = (trial("A2", estimate - 0.5, outcome=outcome, agent="other"),)
        assert parents_of(evidence(agent("first"), other, trials=tried)) == {parent}


def test_an_agent_that_the_incumbent_replaced_is_not_gone_back_to() -> None:
    lucky = agent("lucky", BETTER, 0.9)
    tried = (trial("A2", 0.4, outcome="promoted", agent="lucky"),)
    assert parents_of(evidence(agent("first"), lucky, trials=tried)) == {"first"}


def test_with_one_instance_the_incumbent_is_gone_on_from() -> None:
    one, other = (summarise([Rollout("i", "ok", reward)], 0.0) for reward in (0.1, 0.9))
    agents = (replace(agent("first"), search=one), replace(agent("other", BETTER), search=other))
    assert parents_of(evidence(*agents, trials=(trial("A2", 0.8, agent="other"),))) == {"first"}


def test_once_the_incumbent_has_no_edit_left_the_best_of_the_others_is_next() -> None:
    agents = (agent("first"), agent("other", BETTER, 0.52))
    trials = tuple(trial(each.name, 0.0, agent="other" if each.name == "A2" else None) for each in BOOK.edit)
    assert parents_of(evidence(*agents, trials=trials)) == {"other"}


def test_an_edit_that_was_refused_narrowly_is_tried_again_on_a_new_incumbent_before_one_that_clearly_lost() -> None:
    tried = (
        trial("A2", 0.01),
        trial("C2", -0.3, outcome="screened"),
        trial("B2", 0.2, outcome="promoted", agent="new"),
    )
    new = agent("new", HarnessTree({"harness.py": b"A = 1\nB = 2\nC = 1\nD = 1\n"}), 0.7, ("B2",))
    book = Playbook.model_validate({"edit": [entry("A2", ""), entry("B2", ""), entry("C2", "")]})
    view = evidence(agent("first"), new, trials=tried, incumbent="new", playbook=book)
    narrow, wide = Bandit().decide(view)
    assert isinstance(narrow, RewriteHarness)
    assert isinstance(wide, RewriteHarness)
    assert (narrow.name, narrow.parent, wide.name) == ("A2", "new", "C2")
    assert "On agent new it is untried; elsewhere it earned +0.010 on average in 1 try;" in narrow.reason
    assert wide.prediction.gain < -0.05 < 0 < narrow.prediction.gain < 0.01


def test_a_gain_that_a_small_sample_shows_is_believed_less_than_one_that_a_large_one_shows() -> None:
    def expected(instances: int) -> float:
        rollouts = [Rollout(f"i{index}", "ok", float(index % 2)) for index in range(instances)]
        view = evidence(replace(agent("first"), search=summarise(rollouts, 0.0)), trials=(trial("C2", 0.1),))
        return max(each.prediction.gain for each in Bandit().decide(view) if isinstance(each, RewriteHarness))

    assert 0 < expected(10) < 0.02 < 0.035 < expected(10_000) < 0.05


def test_a_gain_of_a_parent_that_had_more_to_gain_counts_as_a_share_of_what_is_left() -> None:
    tried = (trial("C2", 0.4, outcome="promoted", agent="new"),)
    new = agent("new", HarnessTree({"harness.py": b"A = 1\nB = 1\nC = 2\nD = 1\n"}), 0.9, ("C2",))
    (decision,) = Bandit().decide(evidence(agent("first"), new, trials=tried, incumbent="new", candidates=1))
    assert isinstance(decision, RewriteHarness)
    assert decision.name == "D2"
    assert 0 < decision.prediction.gain < 0.01


def test_the_reason_tells_what_the_edit_and_its_family_earned() -> None:
    (decision,) = Bandit().decide(evidence(trials=(trial("C2", 0.3),), candidates=1))
    assert isinstance(decision, RewriteHarness)
    assert decision.name == "D2"
    assert "it is untried" in decision.reason
    assert "'three' earned +0.300 on average in 1 try" in decision.reason
    assert 0.05 < decision.prediction.gain < 0.15


def test_without_a_catalogue_it_stops_and_says_why() -> None:
    assert "playbook.toml" in stopped(evidence(playbook=None))
