"""A run that asks first pauses before it spends, and with a person's word goes on as if it had not paused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.run.approval import Approval, Paused, Rules, answer
from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.plan import Plan
from sia_core.run.record import RunRecord
from sia_reading.report import build
from sia_testing.fakes import ScriptedImprover, edit, fake_parts

CONFIG = {"plan": {"levers": ["harness"], "seed": 0}, "budget": {}, "improver": "scripted"}
LEVERS = ("harness", "weights")
LOOK = 2 + 200 + 200
"""The rollouts that one agent of the fake task takes."""


def go_on(folder: Path, approve: str, word: bool | None = None) -> dict[str, Any]:
    """Start or resume a run of the fake task, with a word or without one; its report."""
    improver = ScriptedImprover([edit("good", 0.7), edit("bad", 0.1)], [edit("better", 0.9, 0.7)])
    with Ledger.create(folder) as ledger:
        ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
        if word is not None:
            answer(ledger, word)
        budget = Budget(Limit({}))
        approval = Approval(Rules.parse(approve, LEVERS), ledger, budget) if approve else None
        Loop(Plan(), fake_parts(ledger, improver, budget=budget, approval=approval)).improve()
        return build(ledger)


def test_nobody_is_asked_about_less_than_the_sum(tmp_path: Path) -> None:
    report = go_on(tmp_path / "asked", "rollouts=100000")
    plain = go_on(tmp_path / "plain", "")
    assert report["generations"] == plain["generations"]


def test_a_run_pauses_before_a_candidate_that_goes_past_the_sum_and_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    with pytest.raises(Paused, match=r"edit bad of agent .*; with it 1,206 rollouts since the last word.* --approve"):
        go_on(tmp_path / "a", f"rollouts={2 * LOOK}")
    with Ledger.read(tmp_path / "a") as ledger:
        assert list(RunRecord(ledger).questions()) == ["generation/0/1"]
        assert not list(ledger.events("rollouts/gate/"))[4:]  # the first agent's alone: nothing else was begun
    with pytest.raises(Paused):
        go_on(tmp_path / "a", f"rollouts={2 * LOOK}")  # resumed without a word
    with pytest.raises(Paused, match="edit better of agent"):
        go_on(tmp_path / "a", f"rollouts={2 * LOOK}", word=True)
    report = go_on(tmp_path / "a", f"rollouts={2 * LOOK}", word=True)
    plain = go_on(tmp_path / "b", "")
    assert report["generations"] == plain["generations"]
    assert report["sealed"] == plain["sealed"]


def test_what_is_declined_is_refused_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    with pytest.raises(Paused):
        go_on(tmp_path, f"rollouts={2 * LOOK}")
    report = go_on(tmp_path, f"rollouts={2 * LOOK}", word=False)
    assert {row["name"]: row["why"] for row in report["generations"]}["bad"] == "declined by a person"
    assert [row["name"] for row in report["generations"] if row["accepted"]] == ["good", "better"]


def test_a_generation_that_is_declined_closes_the_run_with_its_report(tmp_path: Path) -> None:
    with pytest.raises(Paused, match="generation 0 would begin"):
        go_on(tmp_path, "rollouts=100")
    report = go_on(tmp_path, "rollouts=100", word=False)
    assert report["stopped"] == "another generation was declined"
    assert report["sealed"]


def test_a_word_that_nobody_asked_for_is_a_mistake(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger, pytest.raises(UsageError, match="waits for no approval"):
        answer(ledger, True)


@pytest.mark.parametrize("text", ["weight", "dollars=", "rollouts=-1", "weights,sums=3"])
def test_what_cannot_be_asked_about_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--approve"):
        Rules.parse(text, LEVERS)


def test_weights_alone_or_with_sums() -> None:
    assert Rules.parse("weights", LEVERS) == Rules(frozenset({"weights"}))
    assert Rules.parse("weights, dollars=1.5", LEVERS) == Rules(frozenset({"weights"}), {"dollars": 1.5})
