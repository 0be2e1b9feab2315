"""Exploration of an agent, and the updates that it advises."""

from __future__ import annotations

import pytest

from sia_algorithms.best_of_n import BestOfN
from sia_algorithms.entropic import Entropic
from sia_core.decision import Training
from sia_core.evidence import RewardStats, Rollout, reward_stats
from sia_weights.exploration import fitted
from sia_weights.lever import WeightLever


def rare() -> RewardStats:
    rollouts = [Rollout(instance=f"i{n}", outcome="ok", reward=float(n == 0), answer="") for n in range(64)]
    return reward_stats(rollouts, 0.0)


def test_the_first_update_of_a_pretrained_model_is_there_in_minutes() -> None:
    advised = fitted(Training(), 1280)
    assert (advised.steps, advised.prompts, advised.group) == (10, 16, 8)
    assert advised.rollouts(1000) == 1280


@pytest.mark.parametrize("suits", [0, 49_152])
def test_a_policy_that_learns_from_many_keeps_what_the_learner_advises(suits: int) -> None:
    assert fitted(Training(), suits) == Training()


def test_learners_with_advice_of_their_own_keep_its_shape() -> None:
    sweeps = fitted(BestOfN().training(rare()), 1280)
    assert (sweeps.steps, sweeps.prompts, sweeps.group, sweeps.distinct) == (7, 22, 8, True)
    wide = fitted(Entropic().training(rare()), 1280)
    assert (wide.steps, wide.prompts, wide.group) == (10, 4, 64)


def test_a_run_is_priced_by_the_update_that_its_policy_will_get() -> None:
    assert WeightLever().pull_cost(1000).kinds["rollouts"] == 49_152
    assert WeightLever().pull_cost(1000, 1280).kinds["rollouts"] == 1280
    assert WeightLever(steps=24, prompts=16).pull_cost(1000, 1280).kinds["rollouts"] == 24 * 16 * 8
