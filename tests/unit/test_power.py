"""A run announces the gains that the exact test does see."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_cli import figures
from sia_core.run.gate import Levels, p_value, sign_test
from sia_core.run.power import DISCORDANCE, chance, needed_for, repeated, sees, smallest_gain, to_halve

LEVEL = 0.05 / 16
LATER = 0.0125
"""The level after a promotion, of a run of 16 comparisons."""


def promoted(n: int, gain: float, level: float, discordance: float, rows: int = 40_000) -> float:
    """The share that the exact sign test promotes of candidates with this gain, drawn at random."""
    discordance, drawn = max(discordance, gain), np.random.default_rng(7)
    differ = drawn.binomial(n, discordance, rows)
    wins = drawn.binomial(differ, (1 + gain / discordance) / 2)
    least = {int(m): least_wins(int(m), level) for m in np.unique(differ)}
    return float(np.mean(wins >= np.array([least[int(m)] for m in differ])))


def least_wins(m: int, level: float) -> int:
    """By halving, as p falls with every win."""
    low, high = m // 2, m + 1
    while high - low > 1:
        wins = (low + high) // 2
        low, high = (low, wins) if sign_test(wins, m) <= level else (wins, high)
    return high


@pytest.mark.parametrize(
    ("n", "level", "discordance", "points"),
    [
        (64, LEVEL, 0.06, 17.3),
        (64, LATER, 0.06, 13.8),
        (256, LEVEL, 0.06, 5.3),
        (256, LEVEL, 0.20, 10.1),
        (256, LATER, 0.06, 4.7),
        (256, LATER, 0.20, 8.8),
        (1314, LEVEL, 0.03, 1.72),
        (1314, LEVEL, 0.06, 2.45),
        (1314, LEVEL, 0.20, 4.46),
        (1314, LATER, 0.03, 1.50),
        (1314, LATER, 0.06, 2.12),
        (1314, LATER, 0.20, 3.86),
        (5000, LEVEL, 0.06, 1.25),
        (5000, LATER, 0.06, 1.08),
    ],
)
def test_the_smallest_gain_is_that_of_another_computation_within_a_tenth(
    n: int, level: float, discordance: float, points: float
) -> None:
    """The points are of simulations of the exact test, by another program."""
    assert 100 * smallest_gain(n, level, discordance) == pytest.approx(points, rel=0.1)


@pytest.mark.parametrize("level", [0.05, LEVEL])
@pytest.mark.parametrize("discordance", [0.03, 0.06, 0.2])
@pytest.mark.parametrize("n", [14, 64, 256, 1314, 5000])
def test_the_smallest_gain_is_promoted_four_times_out_of_five(n: int, discordance: float, level: float) -> None:
    gain = smallest_gain(n, level, discordance)
    assert 0 < gain < 1
    assert 0.77 < promoted(n, gain, level, discordance) < 0.87


@pytest.mark.parametrize("n", [64, 1314])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.3])
def test_the_chance_of_smaller_and_larger_gains_is_right_too(n: int, share: float) -> None:
    gain = share * smallest_gain(n, LEVEL, 0.1)
    assert chance(n, gain, LEVEL, 0.1) == pytest.approx(promoted(n, gain, LEVEL, 0.1), abs=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize(("square", "most"), [(0.2, 0.92), (0.02, 1.0)])
def test_for_real_valued_rewards_the_gain_is_promoted_at_least_as_often(square: float, most: float) -> None:
    """Small differences count as few that are large, so that less is promised than the sign-flip test shows."""
    n, rows, drawn = 300, 80, random.Random(5)
    gain = smallest_gain(n, LEVEL, square)
    spread, passed = math.sqrt(square - gain * gain), 0
    for _ in range(rows):
        passed += p_value([round(drawn.gauss(gain, spread) * 2**30) for _ in range(n)]) <= LEVEL
    assert 0.68 < passed / rows <= most


def test_the_smallest_gain_shrinks_with_more_instances_and_grows_with_a_smaller_level() -> None:
    gains = [smallest_gain(n, LEVEL) for n in (10, 30, 100, 300, 1000, 10_000)]
    assert gains == sorted(gains, reverse=True)
    assert smallest_gain(300, LEVEL / 10) > smallest_gain(300, LEVEL)
    assert smallest_gain(300, LEVEL, discordance=0.4) > smallest_gain(300, LEVEL, discordance=0.1)


@given(st.integers(0, 2000), st.floats(-1, 1), st.floats(0, 0.05), st.floats(0.001, 1))
def test_the_chance_is_one_and_nothing_passes_without_a_gain_a_level_or_an_instance(
    n: int, gain: float, level: float, discordance: float
) -> None:
    result = chance(n, gain, level, discordance)
    assert 0 <= result <= 1 + 1e-9
    if n == 0 or gain <= 0 or level == 0:
        assert result == 0


@pytest.mark.parametrize("level", [0.05, LEVEL])
@pytest.mark.parametrize("n", [100, 1314])
def test_so_many_instances_more_would_halve_the_smallest_gain(n: int, level: float) -> None:
    more = to_halve(n, level)
    half = smallest_gain(n, level) / 2
    assert smallest_gain(n + more, level) <= half * (1 + 1e-4)
    assert needed_for(half, level) == n + more
    assert 1.5 * n < more < 5 * n  # about four times as many in all, less where the gain is large


def test_no_gain_takes_more_instances_than_there_are() -> None:
    assert needed_for(0.0, LEVEL) >= 10**9


def test_so_few_instances_that_nothing_can_be_shown_are_told_by_a_gain_of_the_whole_range() -> None:
    assert smallest_gain(3, LEVEL) == 1.0
    assert smallest_gain(1314, 0.0) == 1.0


# What a run says beforehand


def test_a_run_says_what_its_gate_sees_now_and_after_a_promotion_in_units_of_the_reward() -> None:
    about = sees(Levels(16, 1314), (0.0, 100.0))
    assert (about["n"], about["comparisons"], about["wins"]) == (1314, 16, False)
    assert about["level"] == pytest.approx(0.05 / 10)
    assert [each["differ"] for each in about["gains"]] == [0.06, 0.10, 0.20]
    assert all(0 < each["after"] < each["now"] < 10 for each in about["gains"])
    assert about["smallest_gain"] == about["gains"][-1]["now"]
    assert about["gains"][0]["now"] == pytest.approx(2.4, abs=0.15)


def test_a_strict_run_sees_no_more_after_a_promotion() -> None:
    gains = sees(Levels(16, 1314, earned=0.0), (0.0, 1.0))["gains"]
    assert all(each["after"] == each["now"] for each in gains)


def test_a_small_gate_says_how_few_comparisons_it_allows_and_unbounded_rewards_that_wins_are_counted() -> None:
    assert sees(Levels(16, 6), (0.0, 1.0))["comparisons"] == 3
    assert sees(Levels(16, 40), None)["wins"]


# Repeats


def test_repeats_make_smaller_what_is_noise_and_nothing_else() -> None:
    assert repeated(0.0, 8) == DISCORDANCE
    assert repeated(0.1, 1) == DISCORDANCE
    assert repeated(0.1, 4) == pytest.approx(DISCORDANCE / 4)
    assert repeated(0.25, 5) == pytest.approx(0.5 / 5)
    assert smallest_gain(300, LEVEL, repeated(0.1, 4)) < 0.6 * smallest_gain(300, LEVEL)


@pytest.mark.parametrize(
    ("n", "says"),
    [
        (5, "a gain of 0.956, and none where two agents differ on 20% of them; 8 more"),
        (100, "a gain of 0.151 where two agents differ on 20% of them, and of 0.142 after a promotion"),
        (1314, "a gain of 0.024, 0.031 or 0.043 where two agents differ on 6%, 10% or 20% of them, and of"),
    ],
)
def test_no_gain_is_announced_that_is_more_than_what_two_agents_differ_by(n: int, says: str) -> None:
    assert says in figures.sees(sees(Levels(16, n, earned=0.05), (0.0, 1.0)))
