"""A gate sweep is looked at early: what cannot be promoted any more costs no more, and no error is added."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.evidence import Rollout
from sia_core.gate import log_wealth
from sia_core.intervals import estimate
from sia_core.power import DISCORDANCE, chance, repeated, smallest_gain
from sia_core.sequential import Watch, hopeless, means, within

BENCH: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "bench" / "gate.py")))
ALPHA = 0.05 / 16


def rollouts(rewards: list[float]) -> list[Rollout]:
    return [Rollout(str(at), "ok", reward) for at, reward in enumerate(rewards)]


# When a sweep is ended


def test_a_candidate_that_loses_is_stopped_early_and_one_that_wins_never() -> None:
    loses, wins = [-1.0] * 20 + [0.0] * 44, [1.0] * 20 + [0.0] * 44
    assert hopeless(loses, 1314, ALPHA)
    assert not hopeless(wins, 1314, ALPHA)


def test_after_one_batch_of_many_a_small_loss_is_no_reason_to_stop() -> None:
    assert not hopeless([-1.0] * 7 + [1.0] * 6 + [0.0] * 51, 1314, ALPHA)


def test_a_candidate_that_has_earned_its_promotion_is_rolled_out_to_the_end() -> None:
    reached = [1.0] * 20 + [-1.0] * 40
    assert not hopeless(reached, len(reached) + 1, ALPHA)


def test_a_candidate_that_changes_nothing_is_stopped_when_too_few_instances_are_left() -> None:
    stops = [seen for seen in range(64, 1314, 64) if hopeless([0.0] * seen, 1314, ALPHA)]
    assert stops
    assert stops == list(range(stops[0], 1314, 64))


def test_a_watch_holds_the_means_of_repeats_against_the_incumbent() -> None:
    watch = Watch([1.0] * 100, (0.0, 1.0), ALPHA, repeats=2)
    assert watch(rollouts([0.0, 0.0] * 40))
    assert not watch(rollouts([1.0, 1.0] * 10))
    assert not Watch([0.0] * 100, None, ALPHA, repeats=1)(rollouts([1e9] * 20))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([-0.1, 0.0, 0.05, 0.1]), st.sampled_from([0.05, 0.3, 0.9]))
def test_the_simulation_and_the_core_stop_at_the_same_instance(seed: int, gain: float, share: float) -> None:
    bets = BENCH.differing(gain, 400, 1, np.random.default_rng(seed), share)
    row = [float(each) for each in bets[0]]
    core = next((seen for seen in (64, 128, 256) if hopeless(row[:seen], 400, ALPHA)), 400)
    assert BENCH.stops(bets, ALPHA)[0] == core


def test_the_chance_from_the_middle_of_a_sweep_is_what_happens() -> None:
    """From a log-wealth in the middle, the share that reaches the threshold in what is left."""
    random, gain, left = np.random.default_rng(3), 0.08, 600
    begun = [1.0, -1.0, 1.0, -1.0, 1.0] * 9 + [0.0] * 150
    rest = BENCH.differing(gain, left, 2000, random)
    reached = BENCH.peaks(np.concatenate([np.tile(begun, (2000, 1)), rest], axis=1))[:, -1] >= math.log(1 / ALPHA)
    assert chance(left, gain, ALPHA, 0.2, log_wealth(begun)) == pytest.approx(reached.mean(), abs=0.05)


# What early looks cost and save


@pytest.mark.parametrize(("n", "gain"), [(300, 0.113), (900, 0.066), (1314, 0.055)])
def test_the_end_for_futility_costs_under_2_points_of_power_and_saves_half_of_what_leads_nowhere(
    n: int, gain: float
) -> None:
    _, looked, stopped = BENCH.power(gain, n, ALPHA, 600, np.random.default_rng(5))
    assert 0.7 < looked < 0.9
    assert looked - stopped < 0.02
    nothing = BENCH.differing(0.0, n, 200, np.random.default_rng(6))
    assert BENCH.stops(nothing, ALPHA).mean() < 0.55 * n


@pytest.mark.parametrize("search", ["the incumbent", "best on search"])
@pytest.mark.parametrize("kind", BENCH.KINDS, ids=lambda kind: kind.name)
def test_of_runs_with_50_candidates_without_effect_at_most_5_percent_promote_one(kind: Any, search: str) -> None:
    """60 runs of each: a gate with no error control over the run promotes in most of them."""
    assert BENCH.false_promotions(kind, search, 60) <= 8  # by 5%, more than 8 of 60 have a chance of 0.4%


@pytest.mark.slow
@pytest.mark.parametrize("search", ["the incumbent", "best on search", "told better or worse"])
@pytest.mark.parametrize("kind", BENCH.KINDS, ids=lambda kind: kind.name)
def test_of_a_thousand_such_runs_at_most_5_percent_promote_one_with_confidence(kind: Any, search: str) -> None:
    count = BENCH.false_promotions(kind, search, 1000)
    assert estimate([1.0] * count + [0.0] * (1000 - count)).ci95[1] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("search", ["the incumbent", "best on search"])
@pytest.mark.parametrize("kind", BENCH.KINDS[:2], ids=lambda kind: kind.name)
def test_runs_with_real_gains_promote_what_is_no_better_as_rarely(kind: Any, search: str) -> None:
    count = BENCH.false_promotions(kind, search, 1000, real=0.1)
    assert estimate([1.0] * count + [0.0] * (1000 - count)).ci95[1] < 0.05


@pytest.mark.slow
def test_an_improver_that_climbed_the_gates_own_figures_would_break_the_promise() -> None:
    """Why none is shown them."""
    ties = BENCH.KINDS[2]
    assert BENCH.false_promotions(ties, "best on the gate", 300) > 0.1 * 300


def test_that_simulation_sees_a_gate_that_is_too_easy() -> None:
    """One that gives every candidate the whole 5%."""
    run = FunctionType(BENCH.run.__code__, {**BENCH.run.__globals__, "RUN_ALPHA": 0.05 * BENCH.CANDIDATES})
    assert run(BENCH.KINDS[0], "best on search", 200, np.random.default_rng(1), looks=True, real=0.0).sum() > 18


# Repeats


def test_repeats_are_averaged_by_instance() -> None:
    assert means([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], 2) == (0.5, 1.0, 0.0)
    assert means([1.0, 0.0], 1) == (1.0, 0.0)


def test_noise_within_an_instance_is_told_from_differences_between_instances() -> None:
    assert within([1.0, 1.0, 0.0, 0.0], 2) == 0.0
    assert within([1.0, 0.0, 0.0, 1.0], 2) == 0.5
    assert within([0.3, 0.7], 1) == 0.0
    coin = np.random.default_rng(2).integers(0, 2, 6000).astype(float).tolist()
    assert within(coin, 3) == pytest.approx(0.25, abs=0.01)


def test_repeats_make_smaller_what_is_noise_and_nothing_else() -> None:
    assert repeated(0.0, 8) == DISCORDANCE
    assert repeated(0.1, 1) == DISCORDANCE
    assert repeated(0.1, 4) == pytest.approx(DISCORDANCE / 4)
    assert repeated(0.25, 5) == pytest.approx(0.5 / 5)
    assert smallest_gain(300, ALPHA, repeated(0.1, 4)) < 0.6 * smallest_gain(300, ALPHA)
