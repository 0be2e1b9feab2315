"""The improver that learns from earlier runs: what it reads of them, what it never reads, and what it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sia_core.decision import RewriteHarness, Stop, UpdateWeights
from sia_core.evidence import AgentView, AlgorithmView, Evidence, Rollout, Trial, WeightsView, reward_stats, summarise
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.run.ledger import Ledger
from sia_playbook.earlier_runs import read_runs
from sia_playbook.learned import Learned, Lesson, Ridge, context_of, lessons_of
from sia_testing.improvers import plain_evidence

TREE = HarnessTree({"harness.py": b"A = 1\n"})
EDIT = {"op": "replace", "path": "harness.py", "old": "A = 1", "new": "A = 2"}
BOOK = Playbook.model_validate({"edit": [{"name": "A2", "summary": "set A", "change": [EDIT]}]})


def rollouts(right: int, of: int = 8) -> list[Rollout]:
    return [Rollout(f"i{index}", "ok", float(index < right)) for index in range(of)]


def evidence(right: int, trials: tuple[Trial, ...] = (), **changes: Any) -> Evidence:
    results = rollouts(right)
    agent = AgentView("first", TREE.digest, None, None, TREE, (), summarise(results, 0.0), reward_stats(results, 0.0))
    fields = {
        "levers": ("harness", "weights"),
        "trials": trials,
        "playbook": BOOK,
        "candidates": 1,
        "algorithms": (AlgorithmView("ppo", "ppo"), AlgorithmView("grpo", "grpo")),
        "weights": WeightsView(),
    }
    return plain_evidence(agent, **{**fields, **changes})


def earlier(store: Path, name: str, right: int, outcomes: Sequence[tuple[str | None, float]]) -> None:
    """An earlier run: whose first agent was right so often, and what each change of it earned on the gate."""
    with Ledger.create(store / name) as ledger:
        batch = {"rollouts": [each.to_json() for each in rollouts(right)]}
        ledger.record("rollouts/search/first/0000", batch)
        for index, (algorithm, delta) in enumerate(outcomes):
            gate = {"delta": delta, "ci95": [0, 0], "n": 9, "candidate": 0, "incumbent": 0}
            row = {"algorithm": algorithm, "parent": "first", "gate": gate, "accepted": delta > 0.05}
            ledger.record(f"generation/0/gated/{index}", row)
        ledger.record("sealed/final", {"value": 0.123})


def lessons(store: Path) -> list[Lesson]:
    return list(read_runs([store], lessons_of, print))


def chosen(improver: Learned, view: Evidence) -> str:
    (decision,) = improver.decide(view)
    assert not isinstance(decision, Stop)
    return "harness" if isinstance(decision, RewriteHarness) else decision.algorithm


def test_it_pulls_what_earned_most_where_rewards_were_alike(tmp_path: Path) -> None:
    for number in range(8):
        earlier(tmp_path, f"sparse-{number}", 0, [(None, 0.4), ("ppo", 0.0), ("grpo", 0.0)])
        earlier(tmp_path, f"dense-{number}", 6, [(None, 0.0), ("ppo", 0.3), ("grpo", 0.1)])
    improver = Learned(str(tmp_path))
    assert chosen(improver, evidence(0)) == "harness"
    assert chosen(improver, evidence(6)) == "ppo"


def test_it_says_what_it_expects_and_of_how_many_lessons(tmp_path: Path) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.3)])
    (decision,) = Learned(str(tmp_path)).decide(evidence(6))
    assert isinstance(decision, UpdateWeights)
    assert "from 1 lessons" in decision.reason
    assert 0 < decision.prediction.gain < 0.3


def test_a_change_that_was_not_promoted_earned_nothing(tmp_path: Path) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.04), (None, -0.5), ("grpo", 0.2)])
    context = context_of(reward_stats(rollouts(6), 0.0))
    assert lessons(tmp_path) == [
        Lesson("ppo", context, 0.0),
        Lesson("harness", context, 0.0),
        Lesson("grpo", context, 0.2),
    ]


def test_a_sealed_score_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.3)])
    keys: list[str] = []
    originals = Ledger.get, Ledger.events
    monkeypatch.setattr(Ledger, "get", lambda self, key: keys.append(key) or originals[0](self, key))
    monkeypatch.setattr(Ledger, "events", lambda self, prefix="": keys.append(prefix) or originals[1](self, prefix))
    assert lessons(tmp_path)
    assert keys
    assert all(each == "run" or each.startswith(("generation/", "explore/", "rollouts/search/")) for each in keys)


def test_the_exploration_of_an_agent_counts_where_there_is_one(tmp_path: Path) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.3)])
    with Ledger.open(tmp_path / "run-1") as ledger:
        ledger.record("explore/first", {"stats": asdict(reward_stats(rollouts(2), 0.0))})
    (lesson,) = lessons(tmp_path)
    assert lesson.context == context_of(reward_stats(rollouts(2), 0.0))


def test_a_store_that_is_missing_or_damaged_teaches_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.db").write_text("no database")
    assert lessons(tmp_path) == []
    assert lessons(tmp_path / "nowhere") == []
    assert Learned(f"{tmp_path}, {tmp_path / 'nowhere'}").decide(evidence(4))
    assert "an earlier run teaches nothing: " in caplog.text


@pytest.mark.parametrize(
    "gate", [{"delta": "much"}, {"delta": None}, {"n": 9}, ["delta"]], ids=["a word", "nothing", "missing", "a list"]
)
def test_a_run_whose_records_make_no_sense_teaches_nothing(tmp_path: Path, gate: Any) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.3)])
    earlier(tmp_path, "run-2", 6, [("ppo", 0.2)])
    with Ledger.open(tmp_path / "run-1") as ledger:
        row = {"algorithm": "ppo", "parent": "first", "gate": gate, "accepted": True}
        ledger.record("generation/1/gated/0", row)
    assert [each.reward for each in lessons(tmp_path)] == [0.2]


def test_a_screened_change_earned_nothing(tmp_path: Path) -> None:
    earlier(tmp_path, "run-1", 6, [])
    with Ledger.open(tmp_path / "run-1") as ledger:
        row = {"algorithm": "ppo", "parent": "first", "gate": None, "accepted": False, "outcome": "screened"}
        ledger.record("generation/0/gated/0", row)
    assert [(each.arm, each.reward) for each in lessons(tmp_path)] == [("ppo", 0.0)]


def test_its_own_trials_are_lessons_too() -> None:
    untried = chosen(Learned("nowhere"), evidence(4, algorithms=()))
    assert untried == "harness"
    trials = tuple(
        Trial(0, "weights", "ppo", "ppo", "first", f"x{number}", "", 0.0, "rejected", "", -0.1) for number in range(6)
    )
    (decision,) = Learned("nowhere").decide(evidence(4, trials))
    assert not (isinstance(decision, UpdateWeights) and decision.algorithm == "ppo")


def test_the_same_evidence_and_store_give_the_same_and_nothing_left_is_a_stop(tmp_path: Path) -> None:
    earlier(tmp_path, "run-1", 6, [("ppo", 0.3)])
    assert Learned(str(tmp_path)).decide(evidence(6)) == Learned(str(tmp_path)).decide(evidence(6))
    (stop,) = Learned("nowhere").decide(evidence(6, playbook=None, algorithms=()))
    assert isinstance(stop, Stop)


def test_ridge_regression_finds_what_earned_what_and_grows_sure() -> None:
    ridge = Ridge(2)
    before = ridge.expects((1.0, 0.0))
    for _ in range(200):
        ridge.learn((1.0, 0.0), 0.1)
        ridge.learn((1.0, 1.0), 0.5)
    after = ridge.expects((1.0, 0.0))
    assert (before[0], after[0]) == (0.0, pytest.approx(0.1, abs=0.01))
    assert ridge.expects((1.0, 1.0))[0] == pytest.approx(0.5, abs=0.01)
    assert after[1] < before[1] / 5
