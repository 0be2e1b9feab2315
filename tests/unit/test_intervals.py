"""Intervals are those of the textbooks, and can be recorded."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from sia_core.run.intervals import beside, estimate


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (5, 10, 0.23659, 0.76341),
        (10, 10, 0.72247, 1.0),
        (1, 1, 0.20654, 1.0),
        (81, 263, 0.25531, 0.36618),
    ],
)
def test_rewards_that_are_right_or_wrong_have_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    # Values from Newcombe, Statistics in Medicine 17 (1998), and from R's binom.confint(method = "wilson").
    interval = estimate([1.0] * right + [0.0] * (n - right))
    assert interval.value == right / n
    assert interval.ci95 == pytest.approx((low, high), abs=1e-4)


def test_other_rewards_have_the_normal_interval() -> None:
    interval = estimate([0.2, 0.4, 0.6, 0.8])
    half = 1.959964 * 0.2581989 / 2
    assert interval.ci95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


@pytest.mark.parametrize("value", [0.3, 7.0, -250.0])
def test_one_reward_has_an_interval_that_is_wide_and_json(value: float) -> None:
    interval = estimate([value])
    low, high = interval.ci95
    assert low < value < high
    assert high - low >= 2.0
    json.dumps(asdict(interval), allow_nan=False)


def test_a_gap_between_gate_and_sealed_has_newcombes_interval() -> None:
    gate, sealed = estimate([1.0] * 56 + [0.0] * 14), estimate([1.0] * 48 + [0.0] * 32)
    both = beside(sealed, gate)
    assert both["gap"]["value"] == pytest.approx(0.2)
    assert both["gap"]["ci95"] == pytest.approx((0.0524, 0.3339), abs=1e-4)  # his example (a), method 10
    assert (both["value"], both["gate"]["value"]) == (sealed.value, gate.value)
    json.dumps(both, allow_nan=False)
