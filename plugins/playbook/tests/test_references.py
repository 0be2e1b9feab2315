"""The improvers to compare with: by turns, by chance, and plain sampling of the first agent's changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sia_core.decision import RewriteHarness, Stop, UpdateWeights
from sia_core.evidence import AgentView, AlgorithmView, Evidence, Rollout, Trial, WeightsView, reward_stats, summarise
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_playbook.references import BestOfN, FixedAlternation, RandomChoice
from sia_testing.improvers import plain_evidence

TREE = HarnessTree({"harness.py": b"A = 1\nB = 1\n"})
EDITS = [
    {
        "name": f"{letter}{number}",
        "summary": "set it",
        "change": [{"op": "replace", "path": "harness.py", "old": f"{letter} = 1", "new": f"{letter} = {number}"}],
    }
    for letter in "AB"
    for number in (2, 3)
]


def agent(name: str, parent: str | None = None, tree: HarnessTree = TREE) -> AgentView:
    rollouts = [Rollout(f"i{index}", "ok", float(index % 2)) for index in range(8)]
    stats = reward_stats(rollouts * 4, 0.0)
    return AgentView(name, tree.digest, None, parent, tree, (), summarise(rollouts, 0.0), stats)


def learner(name: str, **objections: tuple[str, ...]) -> AlgorithmView:
    return AlgorithmView(name, f"what {name} is", objections=objections)


def evidence(generation: int = 0, **changes: Any) -> Evidence:
    other = HarnessTree({"harness.py": b"A = 1\nB = 1\n# other\n"})
    fields = {
        "generation": generation,
        "levers": ("harness", "weights"),
        "incumbent": "second",
        "playbook": Playbook.model_validate({"edit": EDITS}),
        "algorithms": (learner("ppo"), learner("grpo"), learner("dpo", first=("no",), second=("no",))),
        "weights": WeightsView(),
    }
    return plain_evidence(agent("first"), agent("second", "first", other), **{**fields, **changes})


def tried(lever: str, name: str, parent: str = "second") -> Trial:
    return Trial(0, lever, name, None, parent, "x", "", 0.0, "rejected", "", 0.0)


EVERYTHING = tuple(
    tried(lever, name, parent)
    for parent in ("first", "second")
    for lever, names in (("harness", [each["name"] for each in EDITS]), ("weights", ["ppo", "grpo", "dpo"]))
    for name in names
)


def test_turns_alternate_whatever_they_earn() -> None:
    for generation in range(6):
        decisions = FixedAlternation().decide(evidence(generation))
        kind, count = (RewriteHarness, 2) if generation % 2 == 0 else (UpdateWeights, 1)
        assert len(decisions) == count
        assert all(isinstance(each, kind) and each.parent == "second" for each in decisions)


def test_a_turn_passes_where_its_lever_has_nothing_left() -> None:
    no_update = evidence(1, algorithms=())
    assert all(isinstance(each, RewriteHarness) for each in FixedAlternation().decide(no_update))
    assert all(isinstance(each, UpdateWeights) for each in FixedAlternation().decide(evidence(0, playbook=None)))


def test_chance_pulls_both_levers_about_as_often_and_only_what_is_not_objected_to() -> None:
    drawn = [RandomChoice().decide(evidence(seed=seed))[0] for seed in range(200)]
    levers = Counter(each.lever for each in drawn)
    assert 60 < levers["weights"] < 140
    assert {each.algorithm for each in drawn if isinstance(each, UpdateWeights)} == {"ppo", "grpo"}


def test_a_generation_has_at_most_one_update() -> None:
    for seed in range(50):
        decisions = RandomChoice().decide(evidence(seed=seed, candidates=4))
        assert sum(isinstance(each, UpdateWeights) for each in decisions) <= 1
        assert len({each.name for each in decisions if isinstance(each, RewriteHarness)}) >= 3


def test_plain_sampling_changes_the_first_agent_alone() -> None:
    for seed in range(50):
        decisions = BestOfN().decide(evidence(seed=seed))
        assert {each.parent for each in decisions if not isinstance(each, Stop)} == {"first"}


@pytest.mark.parametrize("improver", [FixedAlternation(), RandomChoice(), BestOfN()])
def test_they_stop_when_nothing_is_left_and_decide_the_same_from_the_same(improver: Any) -> None:
    (stop,) = improver.decide(evidence(trials=EVERYTHING))
    assert isinstance(stop, Stop)
    assert improver.decide(evidence(seed=3)) == improver.decide(evidence(seed=3))


@pytest.mark.parametrize("improver", [FixedAlternation(), RandomChoice(), BestOfN()])
def test_they_pull_only_the_levers_that_the_run_has(improver: Any) -> None:
    for seed in range(20):
        assert all(each.lever == "harness" for each in improver.decide(evidence(1, seed=seed, levers=("harness",))))
        assert all(each.lever == "weights" for each in improver.decide(evidence(0, seed=seed, levers=("weights",))))
