"""Intervals that people read end where the metric does; records keep what was computed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from sia_core.run.gate import compare
from sia_core.run.intervals import in_units
from sia_reading.possible import to_read


def row(bounds: tuple[float, float] | None, incumbent: list[float], candidate: list[float]) -> dict[str, Any]:
    """A candidate's row as it is recorded, with an interval that goes past the largest change that there can be."""
    comparison = compare(incumbent, candidate, bounds=bounds, level=0.05)
    assert comparison.ci95[1] > 1
    return {"name": "c", "why": comparison.why, "gate": asdict(comparison), "accepted": True}


RIGHT, WRONG = [1.0] * 20 + [0.0], [0.0] * 21


def test_a_change_on_the_gate_and_its_sentence_end_at_the_span_of_the_metric() -> None:
    recorded = row((0.0, 1.0), WRONG, RIGHT)
    report = to_read("maximize", recorded, [0.0, 1.0])
    assert report["gate"]["ci95"][1] == 1.0
    assert report["gate"]["ci95"][0] == recorded["gate"]["ci95"][0]
    assert "+1.0000] over 21 instances" in report["why"]
    assert recorded["gate"]["ci95"][1] > 1  # the record is what it was


def test_of_what_is_to_be_minimised_the_gain_in_the_sentence_ends_there_too() -> None:
    recorded = row((-1.0, 0.0), [-1.0] * 21, [0.0] * 20 + [-1.0])
    report = to_read("minimize", recorded, [0.0, 1.0])
    assert report["gate"]["ci95"][0] == -1.0
    assert "+1.0000] over 21 instances" in report["why"]


def test_scores_end_at_the_bounds_and_gaps_and_changes_at_their_span() -> None:
    score = {"value": 19.0, "ci95": (17.0, 21.0)}
    about = {**score, "gate": score, "gap": {"value": 19.0, "ci95": (-30.0, 30.0)}, "change": score}
    report = to_read("maximize", [about], [10.0, 20.0])[0]
    assert report["ci95"] == report["gate"]["ci95"] == [17.0, 20.0]
    assert report["gap"]["ci95"] == [-10.0, 10.0]
    assert report["change"]["ci95"] == [10.0, 10.0]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_rewards_without_bounds_have_their_intervals_as_they_are(direction: str) -> None:
    recorded = row(None, WRONG, RIGHT)
    assert to_read(direction, recorded, None) == in_units(direction, recorded)
