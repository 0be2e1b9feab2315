"""What the playbook improver chooses, and why it says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sia_core.decision import RewriteHarness, Stop
from sia_core.evidence import AgentView, Evidence, Rollout, TaskView, Trial, summarise
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.testing.fakes import FakeTask
from sia_core.types import Metric
from sia_playbook.improver import Bandit

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
    plain = Evidence(
        generation=len(trials),
        seed=0,
        brief="",
        metric=Metric("right"),
        levers=("harness",),
        incumbent="first",
        agents={each.id: each for each in agents or (agent("first"),)},
        trials=trials,
        playbook=BOOK,
        candidates=2,
        smallest_gain=0.05,
        budget_left={},
    )
    return replace(plain, **changes)


def trial(name: str, gain: float | None, parent: str = "first", outcome: str = "rejected") -> Trial:
    return Trial(0, "harness", name, None, parent, "x", "", 0.0, outcome, "", gain)


def names(given: Evidence) -> list[str]:
    return [each.name for each in Bandit().decide(given) if isinstance(each, RewriteHarness)]


def stopped(given: Evidence) -> str:
    (decision,) = Bandit().decide(given)
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


def test_a_family_that_earned_is_tried_on_and_one_that_cost_is_left_for_later() -> None:
    good = names(evidence(trials=(trial("C2", 0.2), trial("A2", -0.2))))
    assert good[0] == "D2"
    assert good[1] == "B2"


def test_an_edit_that_did_not_even_run_counts_as_a_loss() -> None:
    assert "A3" not in names(evidence(trials=(trial("A2", None, outcome="failed"),)))


def test_an_edit_that_was_refused_for_want_of_budget_counts_for_nothing() -> None:
    refused = trial("A2", None, outcome="refused")
    assert "A3" in names(evidence(trials=(refused,), candidates=4))
    chosen = Bandit().decide(evidence(trials=(refused,), candidates=4))
    assert [each.prediction.gain for each in chosen if isinstance(each, RewriteHarness) and each.name == "A3"] == [0.0]


def test_an_edit_is_not_tried_twice_on_one_agent_nor_again_on_its_descendants() -> None:
    everything = tuple(trial(each.name, 0.0) for each in BOOK.edit)
    assert "every edit" in stopped(evidence(trials=everything))
    child = HarnessTree({"harness.py": b"A = 1\nB = 2\nC = 1\nD = 1\n"})
    chosen = names(evidence(agent("first"), agent("child", child, 0.6, ("B2",)), trials=everything, candidates=9))
    assert sorted(chosen) == ["A2", "A3", "C2", "D2"]


def test_it_goes_on_from_the_best_estimate_and_falls_back_to_the_incumbent() -> None:
    better = HarnessTree({"harness.py": b"A = 2\nB = 1\nC = 1\nD = 1\n"})
    agents = (agent("first"), agent("better", better, 0.52))
    assert {each.parent for each in Bandit().decide(evidence(*agents)) if isinstance(each, RewriteHarness)} == {
        "better"
    }
    done = tuple(trial(each.name, 0.0, "better") for each in BOOK.edit)
    chosen = Bandit().decide(evidence(*agents, trials=done))
    assert {each.parent for each in chosen if isinstance(each, RewriteHarness)} == {"first"}


def test_the_reason_tells_what_the_edit_and_its_family_earned() -> None:
    (chosen,) = Bandit().decide(evidence(trials=(trial("C2", 0.3),), candidates=1))
    assert isinstance(chosen, RewriteHarness)
    assert chosen.name == "D2"
    assert "it is untried" in chosen.reason
    assert "'three' earned +0.300 on average in 1 try" in chosen.reason
    assert chosen.prediction.gain == 0.15


def test_without_a_catalogue_it_stops_and_says_why() -> None:
    assert "playbook.toml" in stopped(evidence(playbook=None))
