"""The simulation of docs/gate.md does what the gate does, and holds what is promised where fewer runs can show it."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.run.gate import RUN_ERROR, Levels, differences, p_value
from sia_core.run.gatekeeper import hopeless
from sia_core.run.intervals import estimate

BENCH: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "bench" / "gate_simulation.py")))
LEVEL = 0.05 / 16


# The simulation and the core


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=60))
def test_p_for_right_or_wrong_is_that_of_the_core(steps: list[int]) -> None:
    assert BENCH.p_values(np.array([steps], dtype=float))[0] == p_value(steps)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=11))
def test_p_for_few_real_valued_differences_is_that_of_the_core_or_1_where_nothing_could_pass(steps: list[int]) -> None:
    simulated, exact = BENCH.p_values(np.array([steps], dtype=float))[0], p_value(steps)
    assert simulated == exact or simulated == 1.0 > exact > RUN_ERROR


@pytest.mark.parametrize("n", [14, 40, 200])
def test_p_for_many_is_that_of_the_core_but_for_the_draw(n: int) -> None:
    rows = np.round(np.random.default_rng(n).exponential(1.0, (12, n)) * 2**20) - 0.75 * 2**20
    for steps, simulated in zip(rows, BENCH.p_values(rows), strict=True):
        exact = p_value([int(step) for step in steps])
        assert simulated == pytest.approx(exact, abs=0.01) or simulated == 1.0 > exact > RUN_ERROR


@given(
    st.lists(st.sampled_from(["promoted", "rejected", "screened"]), max_size=40),
    st.sampled_from([4, 5, 6, 9, 40, 1314]),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_levels_are_those_of_the_core(outcomes: list[str], instances: int, earned: float) -> None:
    ledgers, levels = BENCH.Ledgers(1, 40, instances, earned), Levels(40, instances, earned)
    for index, outcome in enumerate(outcomes):
        level = levels.level(index)
        assert ledgers.level(index)[0] == pytest.approx(level)
        assert ledgers.level(index, hoped=1)[0] == pytest.approx(levels.level(index, hoped=1))
        compared, promoted = outcome != "screened", outcome == "promoted"
        ledgers.book(np.array([level]), np.array([compared]), np.array([promoted]))
        levels = levels.after(level, promoted) if compared else levels


@given(st.integers(0, 2**32), st.sampled_from([-0.1, 0.0, 0.05, 0.1]), st.sampled_from([0.05, 0.3, 0.9]))
def test_sweeps_are_ended_at_the_same_instance(seed: int, gain: float, share: float) -> None:
    steps = BENCH.differing(gain, 400, 1, np.random.default_rng(seed), share)
    row = [float(each) for each in steps[0]]
    core = next((count for count in (64, 128, 256) if hopeless(row[:count], 400, LEVEL)), 400)
    assert BENCH.stops(steps, np.array([LEVEL]))[0] == core


def test_grains_are_those_of_the_core() -> None:
    drawn = random.Random(3)
    one, other = [[drawn.random() for _ in range(50)] for _ in range(2)]
    assert [*BENCH.grains(np.array(other) - np.array(one))] == differences(one, other, (0.0, 1.0))


# False promotions


@pytest.mark.thorough
@pytest.mark.parametrize("rule", BENCH.RULES)
@pytest.mark.parametrize("world", BENCH.NULLS, ids=lambda world: world.name)
def test_of_runs_with_50_candidates_without_effect_at_most_5_percent_promote_one(world: Any, rule: str) -> None:
    """60 runs of each: a gate with no error control over the run promotes in most of them."""
    assert BENCH.promoting(world, rule, 60, BENCH.LONG) <= 8  # by 5%, more than 8 of 60 have a chance of 0.4%


@pytest.mark.slow
@pytest.mark.parametrize("rule", BENCH.RULES)
@pytest.mark.parametrize("world", BENCH.NULLS, ids=lambda world: world.name)
def test_of_a_thousand_such_runs_no_more_than_5_percent_and_their_noise_promote_one(world: Any, rule: str) -> None:
    count = BENCH.promoting(world, rule, 1000, BENCH.LONG)
    assert estimate([1.0] * count + [0.0] * (1000 - count)).ci95[0] < RUN_ERROR
    assert count < 1000 * (RUN_ERROR + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("instances", BENCH.SMALL)
@pytest.mark.parametrize("world", BENCH.NULLS, ids=lambda world: world.name)
def test_on_small_gates_no_more_runs_promote_one(world: Any, instances: int) -> None:
    assert BENCH.promoting(world, "best on search", 1000, BENCH.Setup(gate=instances)) < 1000 * (RUN_ERROR + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gate", BENCH.GATES[1:4], ids=lambda gate: gate.name)
@pytest.mark.parametrize("world", BENCH.ADVERSARIES, ids=lambda world: world.name)
def test_improvers_that_play_against_the_gate_get_no_more_than_the_levels_promise(world: Any, gate: Any) -> None:
    rule = "best on search" if isinstance(world, BENCH.Resubmits) else "the incumbent"
    outcome = BENCH.simulate(world, rule, 400, BENCH.LONG, gate)
    promised = RUN_ERROR + gate.earned * outcome.promotions.mean()
    assert outcome.levels.mean() <= promised + 1e-9
    assert outcome.false.mean() <= promised + 2 * outcome.false.std() / 20


@pytest.mark.thorough
def test_that_simulation_sees_a_gate_that_is_too_easy() -> None:
    easy = BENCH.Gate("one error", kind="one error")
    outcome = BENCH.simulate(BENCH.NULLS[0], "best on search", 60, BENCH.LONG, easy)
    assert (outcome.promotions > 0).sum() > 30


# What is gained


@pytest.mark.slow
@pytest.mark.parametrize("rule", BENCH.RULES[:2])
def test_a_run_gains_more_after_its_first_win_than_by_the_gate_of_before(rule: str) -> None:
    gains = {}
    for gate in BENCH.GATES[:4]:
        outcome = BENCH.simulate(BENCH.WHOLE[0], rule, 200, gate=gate)
        gains[gate.name] = outcome.gain.mean()
        assert outcome.worse.mean() < 0.05
    before, strict, default, bold = gains.values()
    assert before < strict < default < bold + 0.002
