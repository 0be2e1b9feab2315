"""The gate promotes what is better by an exact test, and hands each comparison its share of the run's error."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sia_core.run.gate import (
    EARNED,
    EXHAUSTIVE,
    GRAIN,
    RUN_ERROR,
    Comparison,
    Levels,
    affordable,
    compare,
    differences,
    flips_for,
    p_value,
    sign_test,
)

LEVEL = 0.05 / 16
UNIT = (0.0, 1.0)


def enumerated(steps: Sequence[int]) -> float:
    """The share of all sign patterns, each as likely as any other, that sum to at least the observed sum."""
    moved = [step for step in steps if step]
    total = sum(moved)
    if total <= 0:
        return 1.0
    flips = itertools.product((1, -1), repeat=len(moved))
    sums = [sum(sign * step for sign, step in zip(signs, moved, strict=True)) for signs in flips]
    return sum(each >= total for each in sums) / len(sums)


def wins_to_losses(wins: int, losses: int, ties: int) -> Comparison:
    incumbent = [0.0] * wins + [1.0] * (losses + ties)
    candidate = [1.0] * wins + [0.0] * losses + [1.0] * ties
    return compare(incumbent, candidate, bounds=UNIT, level=LEVEL)


# The test is exact


@pytest.mark.parametrize("m", range(1, 9))
def test_p_for_rewards_of_right_or_wrong_is_that_of_all_sign_patterns(m: int) -> None:
    for steps in itertools.product((-1, 0, 1), repeat=m):
        assert p_value(steps) == enumerated(steps)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=11))
@example([0, 0, 0])
@example([5, -5])
@example([3, 3, 3, -1])
@example([2**30, -1])
@example([1] * 11)
def test_p_for_real_valued_rewards_is_that_of_all_sign_patterns(steps: list[int]) -> None:
    assert p_value(steps) == enumerated(steps)


@given(st.lists(st.integers(-50, 50), max_size=60))
def test_the_order_of_instances_and_those_without_a_difference_do_not_count(steps: list[int]) -> None:
    assume(len([step for step in steps if step]) <= EXHAUSTIVE or len({abs(step) for step in steps if step}) == 1)
    assert p_value(steps) == p_value([0, *reversed(steps), 0, 0])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_of_a_candidate_and_its_mirror_image_at_most_one_can_be_better(steps: list[int]) -> None:
    there, back = p_value(steps), p_value([-step for step in steps])
    assert max(there, back) == 1.0
    assert 0 < min(there, back) <= 1


@pytest.mark.parametrize("sizes", [[1, 2, 3], [4, 1, 4, 1, 5, 9], [1] * 9, [7, 7, 7, 2, 1, 1, 3, 9]])
def test_of_all_sign_patterns_exactly_the_share_p_has_a_p_as_small(sizes: list[int]) -> None:
    """That is what makes the test exact: under "no better" each pattern is as likely as any other."""
    patterns = itertools.product((1, -1), repeat=len(sizes))
    cases = [p_value([sign * size for sign, size in zip(signs, sizes, strict=True)]) for signs in patterns]
    for level in {*cases} - {1.0}:
        assert sum(p <= level for p in cases) == level * len(cases)


@pytest.mark.parametrize(("wins", "n"), [(0, 3), (3, 3), (36, 52), (700, 1314)])
def test_the_sign_test_is_computed_without_rounding_on_the_way(wins: int, n: int) -> None:
    exact = Fraction(sum(math.comb(n, k) for k in range(wins, n + 1)), 2**n)
    assert sign_test(wins, n) == float(exact)


def test_very_many_wins_underflow_to_nothing_and_not_to_an_error() -> None:
    assert p_value([1] * 100_000) == 0.0


# Where there are too many differences for all flips, they are drawn


def real(n: int, lean: float) -> list[int]:
    """Real-valued differences, of which more or less than half are gains."""
    return [round((((at * 0.6180339887) % 1) - 0.5 + lean) * 2**30) for at in range(n)]


def test_drawn_flips_are_the_same_each_time_whatever_was_drawn_before() -> None:
    steps = real(200, 0.05)
    once = p_value(steps)
    p_value(real(50, 0.1))
    assert p_value(steps) == once


def test_drawn_flips_do_not_change_with_the_version_of_python_or_of_this_package() -> None:
    """Recorded p values are compared when a run is replayed."""
    assert p_value(real(200, 0.05)) == 0.0079
    assert p_value(real(14, 0.2)) == 0.056


@pytest.mark.parametrize(("n", "lean"), [(14, 0.1), (16, 0.2), (16, 0.1)])
def test_drawn_flips_come_close_to_all_of_them(n: int, lean: float) -> None:
    steps = real(n, lean)
    assert p_value(steps) == pytest.approx(enumerated(steps), abs=0.015)


def test_with_many_instances_drawn_flips_come_close_to_the_normal_tail() -> None:
    steps = real(1314, 0.015)
    z = sum(steps) / math.sqrt(sum(step * step for step in steps))
    assert p_value(steps) == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, abs=0.01)


def test_the_least_p_of_drawn_flips_is_that_of_the_observed_signs_alone() -> None:
    steps = [1, *[2] * 40]
    assert p_value(steps) == 1 / 10_000
    assert p_value(steps, flips_for(1e-5)) == 1e-6


@given(st.floats(1e-300, 1))
def test_a_candidate_that_wins_everywhere_passes_at_every_level_that_is_handed_out(level: float) -> None:
    assume(level >= 2e-6)
    assert 1 / flips_for(level) <= level


def test_without_a_level_few_flips_are_enough() -> None:
    assert flips_for(0.0) == flips_for(0.05) == 10_000


# Differences


def test_differences_are_in_grains_of_the_range_so_that_rounding_decides_nothing() -> None:
    third = 1 / 3
    rounded = differences([0.1 + 0.2, third, 0.5], [0.3, third + 1e-12, 0.5 + 4 * GRAIN], UNIT)
    assert rounded == [0, 0, 4]


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_the_scale_of_bounded_rewards_does_not_matter(tenths: list[int], span: float, low: float) -> None:
    bounds = (low, low + span)
    assume(bounds[1] - bounds[0] > 1e-7 * max(1.0, abs(low)))
    unit = [tenth / 20 for tenth in tenths]
    scaled = [low + (bounds[1] - low) * value for value in unit]
    there = differences([0.0] * len(unit), unit, UNIT)
    here = differences([low] * len(unit), scaled, bounds)
    assert here == pytest.approx(there, abs=1 + 2**-20 * abs(low) / span * 2**30)


@pytest.mark.parametrize("bounds", [(0.0, 1e-320), (-1e150, 1e150), (5e-324, 1e-323)])
def test_ranges_of_any_size_are_compared(bounds: tuple[float, float]) -> None:
    low, high = bounds
    comparison = compare([low] * 20, [high] * 20, bounds=bounds, level=LEVEL)
    assert comparison.better
    assert comparison.p == 2.0**-20


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=40))
def test_without_bounds_only_who_wins_an_instance_counts(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    signs = [(b > a) - (b < a) for a, b in pairs]
    assert compare(one, other, bounds=None, level=LEVEL).p == p_value(signs)


def test_one_huge_reward_does_not_buy_a_promotion() -> None:
    assert not compare([1.0] * 30, [1e12] + [0.9] * 29, bounds=None, level=LEVEL).better


def test_winning_most_instances_and_losing_on_the_whole_is_no_promotion() -> None:
    comparison = compare([1.0] * 60, [1.1] * 59 + [-1e6], bounds=None, level=LEVEL)
    assert comparison.p <= comparison.level
    assert comparison.delta < 0
    assert comparison.verdict == "not shown to be better"


# Verdicts


def test_36_wins_to_16_losses_are_a_promotion_where_there_is_error_left() -> None:
    """The change that the gate of before refused."""
    refused = wins_to_losses(36, 16, 1262)
    assert refused.p == pytest.approx(0.0039, abs=5e-5)
    assert refused.why == (
        "not shown to be better: gain +0.0152 [+0.0045, +0.0259] over 1,314 instances; "
        "36 wins to 16 losses, p = 0.0039, needed 0.0031"
    )
    promoted = compare([0.0] * 36 + [1.0] * 16, [1.0] * 36 + [0.0] * 16, bounds=UNIT, level=0.0125)
    assert promoted.why.endswith("36 wins to 16 losses, p = 0.0039, needed 0.013")
    assert promoted.better


def test_a_candidate_that_wins_clearly_is_promoted_and_one_that_loses_is_called_worse() -> None:
    better = compare([0.0] * 60 + [1.0] * 40, [1.0] * 90 + [0.0] * 10, bounds=UNIT, level=LEVEL)
    assert better.why.startswith("better: gain +0.5000 [")
    assert (better.incumbent, better.candidate, better.n, better.wins, better.losses) == (0.4, 0.9, 100, 60, 10)
    assert better.why.endswith("60 wins to 10 losses, p < 0.0001, needed 0.0031")
    worse = compare([1.0] * 50, [0.0, 1.0] * 25, bounds=UNIT, level=LEVEL)
    assert worse.why.startswith("worse: gain -0.5000")
    assert worse.why.endswith("0 wins to 25 losses, p = 1, needed 0.0031")
    tie = compare([1.0, 0.0], [0.0, 1.0], bounds=UNIT, level=LEVEL)
    assert tie.why.endswith("1 win to 1 loss, p = 1, needed 0.0031")
    assert tie.verdict == "not shown to be better"


def test_a_sweep_that_was_stopped_early_promotes_nothing_and_says_where_it_was_stopped() -> None:
    stopped = compare([0.0] * 1314, [1.0] * 384, bounds=UNIT, level=LEVEL)
    assert stopped.p < stopped.level
    assert not stopped.better
    assert stopped.why.startswith("stopped after 384 of 1,314 instances, not shown to be better: gain +1.0000")
    assert stopped.why.endswith("384 wins to 0 losses, with next to no chance left")


def test_an_improver_is_told_one_bit_so_that_runs_without_a_promotion_tell_it_nothing() -> None:
    worse = compare([1.0] * 50, [0.0, 1.0] * 25, bounds=UNIT, level=LEVEL)
    stopped = compare([1.0] * 50, [0.0, 1.0] * 15, bounds=UNIT, level=LEVEL)
    tie = compare([1.0, 0.0], [0.0, 1.0], bounds=UNIT, level=LEVEL)
    assert worse.report == stopped.report == tie.report == "not shown to be better"
    better = compare([0.0] * 100, [1.0] * 100, bounds=UNIT, level=LEVEL)
    assert better.report == "better"
    assert not any(
        each.isdigit()
        for comparison in (worse, stopped, tie, better)
        for each in comparison.verdict + comparison.report
    )


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.05), st.sampled_from([9, 10]))
def test_better_takes_a_whole_sweep_a_gain_and_a_small_p_and_an_interval_below_zero_is_worse(
    delta: float, high: float, p: float, level: float, n: int
) -> None:
    comparison = Comparison(0.5, 0.5 + delta, delta, (-2.0, high), n, 10, 6, 4, p, level)
    assert comparison.better == (n == 10 and p <= level and delta > 0)
    assert comparison.verdict == ("better" if comparison.better else "worse" if high < 0 else "not shown to be better")
    assert f"{comparison.verdict}: " in comparison.why


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.floats(0, 0.05))
def test_an_agent_is_never_better_than_itself(rewards: list[float], level: float) -> None:
    comparison = compare(rewards, rewards, bounds=UNIT, level=level)
    assert not comparison.better
    assert (comparison.delta, comparison.p, comparison.wins, comparison.losses) == (0.0, 1.0, 0, 0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_two_agents_are_never_each_better_than_the_other(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    there = compare(one, other, bounds=UNIT, level=LEVEL)
    back = compare(other, one, bounds=UNIT, level=LEVEL)
    assert not (there.better and back.better)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.delta == pytest.approx(-back.delta)


def test_a_comparison_of_one_instance_is_json_and_promotes_nothing() -> None:
    comparison = compare([0.0], [1.0], bounds=UNIT, level=LEVEL)
    assert not comparison.better
    assert Comparison(**json.loads(json.dumps(asdict(comparison), allow_nan=False))).delta == 1.0
    assert comparison.ci95[0] <= -1.0


def test_a_comparison_needs_the_same_instances_on_both_sides() -> None:
    for one, other in (([], []), ([1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="the same instances, at least one"):
            compare(one, other, bounds=UNIT, level=LEVEL)


# Levels


OUTCOMES = st.lists(st.sampled_from(["promoted", "rejected", "screened"]), max_size=60)
EARNS = st.sampled_from([0.0, 0.013, EARNED, 0.2])


@given(OUTCOMES, st.integers(1, 60), st.integers(1, 3000), EARNS)
@example(["rejected"] * 60, 60, 6, 0.05)
@example(["promoted"] * 60, 60, 5, 0.05)
@example(["promoted", "rejected", "rejected"], 38, 5, 0.059)
@example(["promoted", *["rejected"] * 50], 50, 1314, 0.2)
def test_levels_never_sum_to_more_than_5_percent_and_what_promotions_earned(
    outcomes: list[str], most: int, instances: int, earned: float
) -> None:
    levels, total, promotions = Levels(most, instances, earned), 0.0, 0
    for index, outcome in enumerate(outcomes[:most]):
        level = levels.level(index)
        assert 0 <= level <= RUN_ERROR
        assert not level or level >= 2.0**-instances  # else nothing could pass, and the error would be lost
        if outcome == "screened" or not level:
            continue
        total += level
        assert total <= RUN_ERROR + earned * promotions + 1e-12
        promotions += outcome == "promoted"
        levels = levels.after(level, outcome == "promoted")
        assert levels.used == pytest.approx(total)
        assert levels.left == pytest.approx(RUN_ERROR + earned * promotions - total, abs=1e-12)


@given(OUTCOMES, st.integers(1, 60), EARNS)
def test_levels_from_recorded_verdicts_are_those_of_the_run(outcomes: list[str], most: int, earned: float) -> None:
    live, rows = Levels(most, 1314, earned), list[dict[str, Any]]()
    for index, outcome in enumerate(outcomes[:most]):
        gate = None if outcome == "screened" else {"level": live.level(index)}
        if gate:
            live = live.after(gate["level"], outcome == "promoted")
        rows.append({"gate": gate, "accepted": outcome == "promoted"})
    assert Levels(most, 1314, earned).following(rows) == live
    assert Levels(most, 1314, earned).following(rows[:7]).following(rows[7:]) == live


def test_verdicts_of_the_gate_of_before_have_no_level() -> None:
    levels = Levels(16, 1314)
    assert levels.following([{"gate": {"wealth": 3.0}, "accepted": True}]) == levels


def test_all_of_the_error_is_used_by_the_last_comparison_and_none_is_kept_back() -> None:
    levels = Levels(16, 1314)
    for index in range(16):
        levels = levels.after(levels.level(index), promoted=False)
    assert levels.used == pytest.approx(RUN_ERROR)


def test_where_every_candidate_is_compared_each_level_is_an_even_share_and_where_many_are_screened_it_is_more() -> None:
    levels = Levels(16, 1314)
    first = levels.level(0)
    assert first == pytest.approx(0.05 / (1 + 15 * 0.6))
    for index in range(8):
        levels = levels.after(levels.level(index), promoted=False)
    assert levels.level(8) == pytest.approx(0.05 / 16, rel=0.5)
    few = Levels(16, 1314, gated=1, used=first)
    assert few.level(8) > 2 * levels.level(8)


def test_a_promotion_earns_error_for_later_comparisons_and_strict_runs_earn_none() -> None:
    refused, promoted = (Levels(16, 1314).after(0.005, each) for each in (False, True))
    assert promoted.left == pytest.approx(refused.left + EARNED)
    assert promoted.level(1) > refused.level(1)
    assert Levels(16, 1314).after(0.005, False).level(1, hoped=1) == pytest.approx(promoted.level(1), rel=0.01)
    strict = Levels(16, 1314, earned=0.0)
    assert strict.after(0.005, True).level(1) == strict.after(0.005, False).level(1)


def test_the_sums_for_reports_are_json() -> None:
    levels = Levels(16, 1314).after(0.005, True).after(0.006, False)
    sums = json.loads(json.dumps(levels.to_json()))
    assert sums == pytest.approx({"used": 0.011, "earned": 0.1, "left": 0.089, "promotions": 1})


# Small gates


@pytest.mark.parametrize(
    ("instances", "comparisons"), [(1, 0), (4, 0), (5, 1), (6, 3), (7, 6), (8, 12), (9, 16), (1500, 16)]
)
def test_so_few_instances_allow_only_so_many_comparisons(instances: int, comparisons: int) -> None:
    assert affordable(16, instances) == comparisons
    levels, count = Levels(16, instances, earned=0.0), 0
    for index in range(16):
        if level := levels.level(index):
            assert compare([0.0] * instances, [1.0] * instances, bounds=UNIT, level=level).better or instances > 9
            levels, count = levels.after(level, promoted=False), count + 1
    assert count == comparisons


def test_after_a_promotion_a_small_gate_allows_more() -> None:
    levels = Levels(16, 6)
    for index in range(3):
        levels = levels.after(levels.level(index), promoted=index == 2)
    assert levels.level(3) == pytest.approx(0.05 / 3)
    assert levels.after(levels.level(3), promoted=False).level(4) > 0
