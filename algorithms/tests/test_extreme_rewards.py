"""Rewards of any size: refused with a word on what to do, or trained on; never an overflow on the way."""

from __future__ import annotations

import math

import pytest

from sia_algorithms.entropic import Entropic
from sia_algorithms.grpo import Grpo
from sia_algorithms.ppo import Ppo
from sia_algorithms.reinforce import Reinforce
from sia_core.errors import NoSignal, TrainingError
from sia_core.learning import Learner, check_credit
from sia_testing.learners import EXTREME, REWARDS, rollouts


@pytest.mark.parametrize("rewards", EXTREME, ids=str)
def test_credit_is_refused_or_fit_for_an_engine(learner: Learner, rewards: tuple[float, ...]) -> None:
    try:
        data = learner.credit(rollouts((rewards, REWARDS[0])))
    except TrainingError:
        return
    assert data
    for datum in data:
        check_credit(datum)


@pytest.mark.parametrize("reward", [1e300, -1e300, math.inf, math.nan])
def test_the_refusal_of_a_reward_names_it(learner: Learner, reward: float) -> None:
    with pytest.raises(TrainingError, match="has the reward"):
        learner.credit(rollouts(((reward, 0.0, 1.0, 0.5),)))


@pytest.mark.parametrize("make", [Ppo, Reinforce])
def test_rewards_whose_squares_an_engine_cannot_hold_are_refused_with_what_to_do(make: type[Learner]) -> None:
    with pytest.raises(TrainingError, match="the rewards are too large"):
        make().credit(rollouts(((1e30, 0.0, 1.0, 0.5),)))


@pytest.mark.parametrize("make", [Grpo, Entropic])
def test_a_learner_that_divides_by_the_spread_takes_rewards_of_any_scale(make: type[Learner]) -> None:
    assert make().credit(rollouts(((1e90, 0.0, 5e89, 2e89),)))


@pytest.mark.parametrize("make", [Ppo, Grpo, Reinforce])
def test_rewards_that_differ_by_next_to_nothing_are_no_signal(make: type[Learner]) -> None:
    with pytest.raises(NoSignal):
        make().credit(rollouts(((1e-320, 0.0, 5e-324, -1e-320),)))
