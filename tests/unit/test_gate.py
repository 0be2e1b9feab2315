"""The gate promotes what is better, and what is not, hardly ever."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.gate import STAKES, Comparison, betting_wealth, compare
from sia_core.intervals import beside, estimate
from sia_core.power import needed_for, smallest_gain, to_halve

ALPHA = 0.05 / 16
UNIT = (0.0, 1.0)


def most_wealth(differences: np.ndarray) -> np.ndarray:
    """The logarithm of the largest wealth on the way; one run a row."""
    logs = np.stack([np.log1p(stake * differences).cumsum(axis=1) for stake in STAKES])
    top = logs.max(axis=0)
    return np.maximum(0.0, (top + np.log(np.exp(logs - top).mean(axis=0))).max(axis=1))


# What is no better is not promoted


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_the_simulation_below_and_the_gate_agree(differences: list[float]) -> None:
    simulated = most_wealth(np.array([differences]))[0]
    assert math.log(betting_wealth(differences)) == pytest.approx(simulated, abs=1e-9)


def test_evidence_that_sufficed_on_the_way_is_not_lost_by_what_comes_later() -> None:
    up_and_down = [1.0] * 20 + [-1.0] * 10
    assert betting_wealth(up_and_down) == betting_wealth([1.0] * 20) > 1 / ALPHA
    assert compare([0.5] * 30, [0.5 + d / 2 for d in up_and_down], bounds=(0.25, 0.75), alpha=ALPHA).better


def test_a_sweep_that_was_stopped_early_promotes_nothing_and_says_where_it_was_stopped() -> None:
    stopped = compare([0.0] * 1314, [1.0] * 384, bounds=UNIT, alpha=ALPHA)
    assert stopped.wealth > stopped.threshold
    assert not stopped.better
    assert stopped.why.startswith("stopped after 384 of 1,314 instances, not shown to be better: +1.0000")


@pytest.mark.parametrize("alpha", [0.05, ALPHA])
@pytest.mark.parametrize(
    "null",
    [
        "discordance 0.02",
        "discordance 0.2",
        "discordance 1",
        "continuous",
        "rare large losses",
        "rare large gains",
        "worse",
    ],
)
def test_the_chance_that_the_evidence_ever_suffices_for_no_gain_is_at_most_alpha(null: str, alpha: float) -> None:
    random, shape = np.random.default_rng(7), (3000, 300)
    if null.startswith("discordance"):
        share = float(null.split()[1])
        differences = random.choice([-1.0, 0.0, 1.0], shape, p=[share / 2, 1 - share, share / 2])
    elif null == "continuous":
        differences = random.uniform(-1, 1, shape) * random.uniform(0, 1, (shape[0], 1))
    elif null == "rare large losses":
        differences = random.choice([0.05, -0.95], shape, p=[0.95, 0.05])
    elif null == "rare large gains":
        differences = random.choice([-0.05, 0.95], shape, p=[0.95, 0.05])
    else:
        differences = random.choice([-1.0, 0.0, 1.0], shape, p=[0.15, 0.75, 0.1])
    ever = (most_wealth(differences) >= math.log(1 / alpha)).mean()
    noise = 2 * math.sqrt(alpha * (1 - alpha) / shape[0])
    assert ever <= alpha + noise


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.floats(1e-6, 0.5))
def test_an_agent_is_never_better_than_itself(rewards: list[float], alpha: float) -> None:
    comparison = compare(rewards, rewards, bounds=UNIT, alpha=alpha)
    assert not comparison.better
    assert (comparison.delta, comparison.wealth) == (0.0, 1.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_two_agents_are_never_each_better_than_the_other(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    there = compare(one, other, bounds=UNIT, alpha=ALPHA)
    back = compare(other, one, bounds=UNIT, alpha=ALPHA)
    assert not (there.better and back.better)
    assert there.delta == pytest.approx(-back.delta)


# What is better is promoted


@pytest.mark.parametrize("alpha", [0.05, ALPHA, 0.05 / 200])
@pytest.mark.parametrize("discordance", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [30, 100, 300, 1000, 5000])
def test_the_smallest_gain_is_seen_four_times_out_of_five(n: int, discordance: float, alpha: float) -> None:
    gain = smallest_gain(n, alpha, discordance)
    assert 0 < gain < 1
    share = max(discordance, gain)
    up, down = (share + gain) / 2, max(0.0, (share - gain) / 2)
    drawn = np.random.default_rng(11).choice([1.0, -1.0, 0.0], (min(2000, 10**6 // n), n), p=[up, down, 1 - up - down])
    assert 0.73 < (most_wealth(drawn) >= math.log(1 / alpha)).mean() < 0.92


@pytest.mark.parametrize("alpha", [0.05, ALPHA])
@pytest.mark.parametrize("n", [100, 1314])
def test_so_many_instances_more_would_halve_the_smallest_gain(n: int, alpha: float) -> None:
    more = to_halve(n, alpha)
    half = smallest_gain(n, alpha) / 2
    assert smallest_gain(n + more, alpha) <= half < smallest_gain(n + more - 2, alpha) + 1e-9
    assert needed_for(half, alpha) == n + more
    assert 2 * n < more < 5 * n  # about four times as many in all, less where the gain is large


def test_no_gain_takes_more_instances_than_there_are() -> None:
    assert needed_for(0.0, ALPHA) >= 10**9


def test_the_smallest_gain_shrinks_with_more_instances_and_grows_with_more_candidates() -> None:
    gains = [smallest_gain(n, ALPHA) for n in (10, 30, 100, 300, 1000, 10_000)]
    assert gains == sorted(gains, reverse=True)
    assert smallest_gain(300, ALPHA / 10) > smallest_gain(300, ALPHA)
    assert smallest_gain(300, ALPHA, discordance=0.4) > smallest_gain(300, ALPHA, discordance=0.1)


def test_so_few_instances_that_nothing_can_be_shown_are_told_by_a_gain_of_the_whole_range() -> None:
    assert smallest_gain(3, ALPHA) == 1.0
    assert not compare([0.0] * 3, [1.0] * 3, bounds=UNIT, alpha=ALPHA).better


def test_a_candidate_that_wins_clearly_is_promoted_and_says_so() -> None:
    comparison = compare([0.0] * 60 + [1.0] * 40, [1.0] * 90 + [0.0] * 10, bounds=UNIT, alpha=ALPHA)
    assert comparison.better
    assert (comparison.incumbent, comparison.candidate, comparison.n) == (0.4, 0.9, 100)
    assert comparison.delta == pytest.approx(0.5)
    assert comparison.why.startswith("better: +0.5000 [")
    assert "over 100 instances" in comparison.why


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_losses_count_as_much_as_wins(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    wealth = compare(one, other, bounds=UNIT, alpha=ALPHA).wealth
    assert wealth == pytest.approx(betting_wealth([b - a for a, b in pairs]))
    assert not compare([*one, *other], [*other, *one], bounds=UNIT, alpha=ALPHA).better


def test_a_candidate_that_loses_is_called_worse_and_one_that_ties_not_shown_to_be_better() -> None:
    assert compare([1.0] * 50, [0.0, 1.0] * 25, bounds=UNIT, alpha=ALPHA).why.startswith("worse: -0.5000")
    assert compare([1.0, 0.0], [0.0, 1.0], bounds=UNIT, alpha=ALPHA).why.startswith("not shown to be better")


def test_the_verdict_says_no_figure_and_the_sentence_says_them_all() -> None:
    better = compare([0.0] * 100, [1.0] * 100, bounds=UNIT, alpha=ALPHA)
    assert better.verdict == "better"
    figures = "+1.0000 [+1.0000, +1.0000] over 100 instances; odds at best over 1000 to 1, promotion takes 320 to 1"
    assert better.why == f"better: {figures}"
    tie = compare([1.0, 0.0], [0.0, 1.0], bounds=UNIT, alpha=0.05)
    assert tie.verdict == "not shown to be better"
    assert tie.why.endswith(f"over 2 instances; odds at best {tie.wealth:.3g} to 1, promotion takes 20 to 1")
    worse = compare([1.0] * 50, [0.0, 1.0] * 25, bounds=UNIT, alpha=ALPHA)
    assert worse.verdict == "worse"
    assert not any(figure.isdigit() for each in (better, tie, worse) for figure in each.verdict)


def test_an_improver_is_told_one_bit_so_that_runs_without_a_promotion_tell_it_nothing() -> None:
    worse = compare([1.0] * 50, [0.0, 1.0] * 25, bounds=UNIT, alpha=ALPHA)
    stopped = compare([1.0] * 50, [0.0, 1.0] * 15, bounds=UNIT, alpha=ALPHA)
    tie = compare([1.0, 0.0], [0.0, 1.0], bounds=UNIT, alpha=ALPHA)
    assert worse.told == stopped.told == tie.told == "not shown to be better"
    assert compare([0.0] * 100, [1.0] * 100, bounds=UNIT, alpha=ALPHA).told == "better"


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1e300), st.floats(1, 1e6))
def test_an_interval_below_zero_is_worse_unless_it_is_better_and_better_takes_odds_and_a_gain(
    delta: float, high: float, wealth: float, threshold: float
) -> None:
    seen = Comparison(0.5, 0.5 + delta, delta, (-2.0, high), 10, wealth, threshold, planned=10)
    assert seen.better == (wealth >= threshold and delta > 0)
    assert seen.verdict == ("better" if seen.better else "worse" if high < 0 else "not shown to be better")
    assert seen.why.startswith(f"{seen.verdict}: ")


# Rewards of other shapes


def test_the_scale_of_bounded_rewards_does_not_matter() -> None:
    small = compare([0.0, 0.5, 0.2], [1.0, 0.4, 0.9], bounds=UNIT, alpha=ALPHA)
    large = compare([-10.0, 40.0, 10.0], [90.0, 30.0, 80.0], bounds=(-10.0, 90.0), alpha=ALPHA)
    assert large.wealth == pytest.approx(small.wealth)
    assert large.delta == pytest.approx(100 * small.delta)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=40))
def test_without_bounds_only_who_wins_an_instance_counts(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    signs = [float((b > a) - (b < a)) for a, b in pairs]
    assert compare(one, other, bounds=None, alpha=ALPHA).wealth == betting_wealth(signs)


def test_one_huge_reward_does_not_buy_a_promotion() -> None:
    assert not compare([1.0] * 30, [1e12] + [0.9] * 29, bounds=None, alpha=ALPHA).better


def test_winning_most_instances_and_losing_on_the_whole_is_no_promotion() -> None:
    comparison = compare([1.0] * 60, [1.1] * 59 + [-1e6], bounds=None, alpha=ALPHA)
    assert comparison.wealth >= comparison.threshold
    assert comparison.delta < 0
    assert not comparison.better
    assert comparison.verdict == "not shown to be better"


def test_the_wealth_of_very_many_wins_stays_a_number() -> None:
    assert math.isfinite(betting_wealth([1.0] * 100_000))
    assert betting_wealth([-1.0] * 100_000) >= 0.0


def test_a_comparison_of_one_instance_is_json_and_promotes_nothing() -> None:
    comparison = compare([0.0], [1.0], bounds=UNIT, alpha=ALPHA)
    assert not comparison.better
    assert Comparison(**json.loads(json.dumps(asdict(comparison), allow_nan=False))).delta == 1.0
    assert comparison.ci95[0] <= -1.0


def test_a_comparison_needs_the_same_instances_on_both_sides() -> None:
    for one, other in (([], []), ([1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="the same instances, at least one"):
            compare(one, other, bounds=UNIT, alpha=ALPHA)


# Estimates


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


# The sealed score beside the gate's


def test_a_gap_between_gate_and_sealed_has_newcombes_interval() -> None:
    gate, sealed = estimate([1.0] * 56 + [0.0] * 14), estimate([1.0] * 48 + [0.0] * 32)
    both = beside(sealed, gate)
    assert both["gap"]["value"] == pytest.approx(0.2)
    assert both["gap"]["ci95"] == pytest.approx((0.0524, 0.3339), abs=1e-4)  # his example (a), method 10
    assert (both["value"], both["gate"]["value"]) == (sealed.value, gate.value)
    json.dumps(both, allow_nan=False)
