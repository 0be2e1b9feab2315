"""The report on the gate: what it sees, what was stopped early, and the winner's curse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sia_cli.figures import sees
from sia_cli.report_text import curse, print_report
from sia_core.run.intervals import beside, estimate


def score(sealed: int, gate: int, of: int = 1000) -> dict[str, Any]:
    both = beside(*(estimate([1.0] * right + [0.0] * (of - right)) for right in (sealed, gate)))
    return {**both, "out_of_tokens": 0}


def report(**more: Any) -> dict[str, Any]:
    gate = {"incumbent": 0.5, "candidate": 0.4, "delta": -0.1, "ci95": [-0.2, 0.0], "n": 384}
    row = {"index": 0, "candidate": 0, "lever": "harness", "algorithm": None, "name": "edit", "predicted": 0.0}
    return {
        "run": "fake-1",
        "status": "finished",
        "task": "fake",
        "metric": {"name": "right"},
        "verifier": "exact",
        "policy": None,
        "levers": ["harness"],
        "seed": 0,
        "improver": "scripted",
        "sandbox": "none",
        "sandbox_lacks": [],
        "generations": [{**row, "accepted": False, "why": "", "gate": gate, "planned": 1314}],
        "gate_queries": 1,
        "smallest_gain": 0.056,
        "to_halve": 4016,
        "sealed": {"initial": score(500, 510), "final": score(700, 790)},
        "robustness": None,
        "budget": {"limit": {"rollouts": 5000.0}, "spent": {"rollouts": 1.0}},
        **more,
    }


def printed(capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    print_report(report(**more), Path("runs/fake-1"))
    return " ".join(capsys.readouterr().out.split())


def test_the_smallest_gain_stands_with_what_would_halve_it() -> None:
    assert sees(report()) == "with 80% power it sees a gain of 0.056 or more; 4,016 more instances would halve that"


def test_the_header_says_what_the_run_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    line = "fake-1: task fake, verifier exact, levers harness, policy none, improver scripted, seed 0, budget rollouts="
    assert f"{line}5,000, sandbox none" in printed(capsys)
    engine = {"name": "torch", "settings": {"policy": "smollm2"}}
    text = printed(capsys, policy=engine, levers=["harness", "weights"], budget={"limit": {}, "spent": {}})
    assert "levers harness+weights, policy smollm2, improver scripted, seed 0, budget unlimited" in text


def test_a_candidate_that_was_stopped_early_says_after_how_many_instances(capsys: pytest.CaptureFixture[str]) -> None:
    assert "rejected after 384 of 1,314" in printed(capsys)


def test_the_sealed_score_stands_beside_the_gates_with_the_gap_always(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert "final agent 0.7000 [0.6709, 0.7276] gate 0.7900 [0.7637, 0.8141] gap +0.0900 [" in text
    assert "initial agent 0.5000 [0.4691, 0.5309] gate 0.5100 [0.4790, 0.5409] gap +0.0100 [-0.03" in text


def test_replies_that_were_cut_at_a_length_that_nobody_named_are_never_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, replies={"replies": 1200, "cut": 12})
    assert "12 of 1,200 replies of the policy were cut short" in text
    assert "256 tokens" in text
    assert "max_tokens" in text
    assert "cut short" not in printed(capsys, replies={"replies": 1200, "cut": 0})


def test_a_gap_beyond_noise_is_called_the_winners_curse_and_one_within_noise_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "the winner's curse" in printed(capsys)
    assert curse(score(700, 720)) == ""
    assert "no winner's curse" in curse(score(790, 700))


def test_sealed_rollouts_without_tokens_are_never_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    final = {**score(700, 700), "out_of_tokens": 3}
    text = printed(capsys, sealed={"initial": score(500, 500), "final": final})
    assert "3 sealed rollouts of the final agent ran out of the tokens that the budget had left." in text


def test_a_run_of_an_earlier_version_is_told_without_what_it_did_not_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = {which: {"value": 0.5, "n": 10, "ci95": [0.2, 0.8]} for which in ("initial", "final")}
    text = printed(capsys, sealed=plain, to_halve=None)
    assert "final agent 0.5000 [0.2000, 0.8000]" in text
    assert "gap" not in text
    assert "halve" not in text


def test_what_was_sorted_out_before_a_full_evaluation_is_told_and_nothing_where_nothing_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sorted_out = {"checked": 5, "not_running": 2, "refused": 0, "failed": 1, "screened": 1, "compared": 2}
    text = printed(capsys, triage=sorted_out)
    assert "Dropped early: of 5 harnesses that were checked 2 did not run;" in text
    assert "of 4 candidates 0 were refused, 1 failed, 1 was not better than the incumbent on search." in text
    assert "Dropped early" not in printed(capsys, triage=dict.fromkeys(sorted_out, 0))


def test_the_report_says_what_each_language_model_was_asked_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"calls": 12, "tokens_in": 54_000, "cached": 40_000, "tokens_out": 3_000, "dollars": 0.12}
    text = printed(capsys, models=[{"model": "a-model", **counts}])
    assert "a-model: 12 calls, 54,000 tokens in (40,000 of them cached), 3,000 out, 0.1200 dollars" in text


def test_a_report_says_where_its_words_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert "docs/glossary.md explains the words" in printed(capsys)
    assert (Path(__file__).parents[2] / "docs" / "glossary.md").is_file()
