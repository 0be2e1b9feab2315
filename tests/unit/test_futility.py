"""A gate sweep is looked at early: what cannot be promoted any more costs no more, and a look promotes nothing."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.evidence import Rollout
from sia_core.run.gate import GRAIN, compare, differences, p_value
from sia_core.run.gatekeeper import Watch, hopeless, means, optimistic, within

LEVEL = 0.05 / 16
LOOKS = (64, 128, 256, 512, 1024)


def rollouts(rewards: list[float]) -> list[Rollout]:
    return [Rollout(str(at), "ok", reward) for at, reward in enumerate(rewards)]


def differing(gain: float, share: float, n: int, seed: int) -> list[int]:
    """Agents that differ on a share of the instances, with this gain."""
    weights = [(share - gain) / 2, 1 - share, (share + gain) / 2]
    return random.Random(f"{gain} {share} {n} {seed}").choices((-1, 0, 1), weights, k=n)


def stop(steps: list[int], level: float) -> int:
    """After how many instances a sweep is ended; all of them where it is not."""
    return next((n for n in LOOKS if n < len(steps) and hopeless(steps[:n], len(steps), level)), len(steps))


# When a sweep is ended


def test_a_candidate_that_loses_is_stopped_early_and_one_that_wins_never() -> None:
    loses, wins = [-1.0] * 20 + [0.0] * 44, [1.0] * 20 + [0.0] * 44
    assert hopeless(loses, 1314, LEVEL)
    assert not hopeless(wins, 1314, LEVEL)


def test_after_one_batch_of_many_a_small_loss_is_no_reason_to_stop() -> None:
    assert not hopeless([-1.0] * 7 + [1.0] * 6 + [0.0] * 51, 1314, LEVEL)


def test_a_candidate_that_is_certain_to_pass_is_rolled_out_to_the_end() -> None:
    passed = [1.0] * 40 + [-1.0] * 2
    assert p_value([*map(int, passed), -1]) <= LEVEL
    assert not hopeless(passed, len(passed) + 1, LEVEL)


def test_a_candidate_that_changes_nothing_is_stopped_when_too_few_instances_are_left() -> None:
    stops = [count for count in range(64, 1314, 64) if hopeless([0.0] * count, 1314, LEVEL)]
    assert stops
    assert stops == list(range(stops[0], 1314, 64))


def test_the_smaller_the_level_the_sooner_a_sweep_is_ended_and_without_one_at_once() -> None:
    draw = [1.0, -1.0, 0.0, 0.0] * 16
    ends = [hopeless(draw, 200, level) for level in (0.05, 0.0125, LEVEL, 1e-6, 1e-9, 0.0)]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    assert hopeless([1.0] * 64, 1314, 0.0)


@given(st.lists(st.integers(-(2**30), 2**30).map(lambda step: step * GRAIN), min_size=1, max_size=100))
def test_the_optimistic_gain_is_above_the_mean_and_at_most_the_range(steps: list[float]) -> None:
    gain, square = optimistic(steps)
    assert math.fsum(steps) / (len(steps) + 2) <= gain <= 1
    assert 0 < square <= 1
    largest = max(map(abs, steps))
    assert gain >= largest * optimistic([0.0] * 10_000)[0] or math.fsum(steps) < 0


def test_rewards_that_use_little_of_their_range_are_not_given_up_for_it() -> None:
    wins = [0.008] * 22 + [0.0] * 42
    assert not hopeless(wins, 100, LEVEL)
    assert hopeless([-each for each in wins], 100, LEVEL)
    assert optimistic(wins)[0] == pytest.approx(0.008 * optimistic([each / 0.008 for each in wins])[0])


def test_after_nothing_but_ties_a_gain_is_still_plausible_and_less_of_one_the_longer_they_go_on() -> None:
    gains = [optimistic([0.0] * n)[0] for n in (1, 64, 256, 1024)]
    assert gains == sorted(gains, reverse=True)
    assert 0.04 < gains[1] < 0.05


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=80), st.integers(1, 2000), st.floats(1e-9, 0.05))
def test_a_look_has_an_answer_at_every_moment(steps: list[int], more: int, level: float) -> None:
    assert hopeless([step * GRAIN for step in steps], len(steps) + more, level) in (True, False)


# The watch


def test_a_watch_holds_the_means_of_repeats_against_the_incumbent() -> None:
    watch = Watch([1.0] * 100, (0.0, 1.0), LEVEL, repeats=2)
    assert watch(rollouts([0.0, 0.0] * 40))
    assert not watch(rollouts([1.0, 1.0] * 10))


def test_a_watch_counts_wins_where_nothing_bounds_the_rewards() -> None:
    assert not Watch([0.0] * 100, None, LEVEL, repeats=1)(rollouts([1e9] * 20))
    assert Watch([0.0] * 100, None, LEVEL, repeats=1)(rollouts([1e9] + [-1.0] * 60))


def test_a_watch_measures_in_shares_of_the_range() -> None:
    unit = Watch([0.5] * 100, (0.0, 1.0), LEVEL, repeats=1)
    wide = Watch([50.0] * 100, (0.0, 100.0), LEVEL, repeats=1)
    for shift in (-0.4, -0.1, 0.0, 0.2):
        rewards = [0.5 + shift * (-1) ** at for at in range(80)]
        assert unit(rollouts(rewards)) == wide(rollouts([100 * each for each in rewards]))


# What looks cost and save


@given(st.sampled_from([-0.05, 0.0, 0.03, 0.06]), st.integers(0, 10**6), st.sampled_from([0.05, LEVEL]))
def test_a_stop_only_ever_takes_a_promotion_away(gain: float, seed: int, level: float) -> None:
    steps = differing(gain, 0.2, 400, seed)
    incumbent, candidate = [0.0] * 400, [(1.0 + step) / 2 for step in steps]
    bounds, count = (0.0, 1.0), stop(steps, level)
    whole = compare([0.5] * 400, candidate, bounds=bounds, level=level)
    stopped = compare([0.5] * 400, candidate[:count], bounds=bounds, level=level)
    assert whole.better or not stopped.better
    assert stopped.better == (whole.better and count == 400)
    assert differences(incumbent, candidate[:count], bounds) == differences(incumbent, candidate, bounds)[:count]


@pytest.mark.thorough
@pytest.mark.parametrize(("n", "gain"), [(300, 0.095), (1314, 0.045)])
def test_looks_cost_a_few_points_of_power_and_save_half_of_a_sweep_that_leads_nowhere(n: int, gain: float) -> None:
    passed = losses = 0
    for seed in range(300):
        steps = differing(gain, 0.2, n, seed)
        promoted = p_value(steps) <= LEVEL
        passed += promoted
        losses += promoted and stop(steps, LEVEL) < n
    assert 0.7 < passed / 300 < 0.9
    assert losses / 300 < 0.04
    assert sum(stop(differing(0.0, 0.2, n, seed), LEVEL) for seed in range(300)) < 0.6 * n * 300


# Repeats


def test_repeats_are_averaged_by_instance() -> None:
    assert means([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], 2) == (0.5, 1.0, 0.0)
    assert means([1.0, 0.0], 1) == (1.0, 0.0)
    assert means([1.0, 0.0, 1.0], 2) == (0.5, 1.0)


def test_noise_within_an_instance_is_told_from_differences_between_instances() -> None:
    assert within([1.0, 1.0, 0.0, 0.0], 2) == 0.0
    assert within([1.0, 0.0, 0.0, 1.0], 2) == 0.5
    assert within([0.3, 0.7], 1) == 0.0
    coin = [float(each) for each in random.Random(2).choices((0, 1), k=6000)]
    assert within(coin, 3) == pytest.approx(0.25, abs=0.01)
