"""The selection table chooses what the paper chose, for rewards like the paper's, and says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.evidence import RewardStats, Rollout, reward_stats
from sia_weights.selection import FEW, SPARSE, TABLE, Choice, Condition, as_text, recommend, verdict

EVERY = [row.algorithm for row in TABLE]


def groups(instances: int, size: int, reward: Callable[[], float], steps: tuple[float, ...] = ()) -> list[Rollout]:
    return [Rollout(f"i{index}", "ok", reward(), step_rewards=steps) for index in range(instances) for _ in range(size)]


def right_or_wrong(chance: float, seed: int) -> Callable[[], float]:
    source = random.Random(seed)
    return lambda: float(source.random() < chance)


def kernel_speeds(seed: int) -> Callable[[], float]:
    """1500 / us: most kernels are wrong, the others typically take 14 ms, and a rare one little more than 1."""
    source = random.Random(seed)

    def reward() -> float:
        kind = source.choices(("wrong", "slow", "fast"), (0.6, 0.35, 0.05))[0]
        return {"wrong": 0.0, "slow": source.gauss(0.105, 0.01), "fast": source.gauss(1.3, 0.1)}[kind]

    return reward


def denoising(seed: int) -> Callable[[], float]:
    """mse_norm between that of the counts themselves and MAGIC's."""
    source = random.Random(seed)
    return lambda: source.uniform(0.05, 0.24)


def chosen(stats: RewardStats) -> str:
    return recommend(stats, EVERY)[0].algorithm


@pytest.mark.parametrize("seed", range(10))
class TestThePapersTasks:
    def test_lawbench_at_its_start_is_for_ppo(self, seed: int) -> None:
        """191 charges, right or wrong, 13.5% right at first, thousands of distinct cases."""
        assert chosen(reward_stats(groups(64, 8, right_or_wrong(0.135, seed)), 0.0)) == "ppo"

    def test_trimul_is_for_entropic(self, seed: int) -> None:
        assert chosen(reward_stats(groups(1, 64, kernel_speeds(seed)), 0.0)) == "entropic"

    def test_denoising_is_for_grpo(self, seed: int) -> None:
        for data_sets in (1, 2):
            assert chosen(reward_stats(groups(data_sets, 32, denoising(seed)), 0.0)) == "grpo"


@pytest.mark.parametrize("seed", range(10))
class TestTheOtherRows:
    def test_an_untrained_policy_that_is_hardly_ever_right_starts_with_best_of_n(self, seed: int) -> None:
        assert chosen(reward_stats(groups(32, 16, right_or_wrong(0.005, seed)), 0.0)) == "best-of-n"

    def test_a_capable_base_is_kept_near_itself_by_reinforce(self, seed: int) -> None:
        rollouts = groups(32, 8, right_or_wrong(0.7, seed))
        assert chosen(reward_stats(rollouts, 0.0, kl_to_base=0.0)) == "reinforce"

    def test_where_the_base_was_left_behind_or_its_distance_is_unknown_ppo_goes_on(self, seed: int) -> None:
        rollouts = groups(32, 8, right_or_wrong(0.7, seed))
        assert chosen(reward_stats(rollouts, 0.0, kl_to_base=0.5)) == "ppo"
        assert chosen(reward_stats(rollouts, 0.0)) == "ppo"

    def test_rewards_of_which_only_the_order_counts_are_for_dpo(self, seed: int) -> None:
        rollouts = groups(16, 4, denoising(seed))
        assert chosen(reward_stats(rollouts, 0.0, ordinal=True)) == "dpo"

    def test_step_rewards_are_for_ppo_even_on_one_instance(self, seed: int) -> None:
        rollouts = groups(1, 16, denoising(seed), steps=(0.1, 0.2))
        assert chosen(reward_stats(rollouts, 0.0)) == "ppo"


def test_right_and_wrong_is_never_a_few_rollouts_worth_a_lot_however_skewed() -> None:
    stats = reward_stats(groups(1, 64, iter([1.0] * 3 + [0.0] * 61).__next__), 0.0)
    assert stats.skew > 4
    assert chosen(stats) == "grpo"


def test_rewards_are_sparse_below_the_bound_and_not_at_it() -> None:
    def share(right: int) -> RewardStats:
        return reward_stats(groups(100, 1, iter([1.0] * right + [0.0] * (100 - right)).__next__), 0.0)

    assert share(2).density == SPARSE
    assert [chosen(share(right)) for right in (1, 2)] == ["best-of-n", "ppo"]


def test_instances_are_few_below_the_bound_and_many_from_it_on() -> None:
    few, many = (reward_stats(groups(count, 8, denoising(0)), 0.0) for count in (FEW - 1, FEW))
    assert (chosen(few), chosen(many)) == ("grpo", "ppo")


def test_capable_means_half_of_the_best_reward_and_near_means_up_to_the_bound() -> None:
    def half(right: int, kl: float) -> str:
        rewards = iter([1.0] * right + [0.0] * (80 - right))
        return chosen(reward_stats(groups(10, 8, rewards.__next__), 0.0, kl_to_base=kl))

    assert [half(40, 0.1), half(39, 0.1), half(40, 0.11)] == ["reinforce", "ppo", "ppo"]


def test_only_what_is_on_offer_is_recommended_the_best_first_and_once() -> None:
    stats = reward_stats(groups(64, 8, right_or_wrong(0.135, 0)), 0.0)
    assert [choice.algorithm for choice in recommend(stats, EVERY)] == ["ppo", "grpo"]
    assert [choice.algorithm for choice in recommend(stats, ["grpo", "dpo"])] == ["grpo"]
    assert recommend(stats, ["dpo"]) == []


def test_a_strangers_algorithm_comes_after_those_that_the_table_calls_for() -> None:
    stats = reward_stats(groups(64, 8, right_or_wrong(0.135, 0)), 0.0)
    assert [choice.algorithm for choice in recommend(stats, ["own", "dpo", "grpo"])] == ["grpo", "own"]
    assert str(recommend(stats, ["own"])[0]) == "own (no row of the table speaks of it)"


def test_a_choice_gives_its_reason_with_the_values_that_it_rests_on() -> None:
    stats = reward_stats(groups(2, 32, denoising(0)), 0.0)
    (first, *_) = recommend(stats, EVERY)
    assert first.held == ("density 1 >= 0.02", "instances 2 < 8")
    assert str(first).startswith("grpo (density 1 >= 0.02, instances 2 < 8: one or few instances")


def test_the_verdict_names_what_is_called_for_even_where_it_is_not_on_offer() -> None:
    stats = reward_stats(groups(64, 8, right_or_wrong(0.135, 0)), 0.0)
    assert verdict(stats, EVERY) == str(recommend(stats, EVERY)[0])
    assert verdict(stats, ["grpo"]).startswith("ppo (")
    assert "which is not on offer; next grpo (" in verdict(stats, ["grpo"])
    assert verdict(stats, []).endswith("which is not on offer; next nothing on offer")


def test_an_unknown_statistic_fulfils_no_condition_and_the_table_says_so() -> None:
    stats = reward_stats(groups(64, 8, right_or_wrong(0.7, 0)), 0.0)
    assert not Condition("kl_to_base", "<=", 1e9).holds(stats)
    assert not Condition("kl_to_base", ">", -1e9).holds(stats)
    (row,) = (line for line in as_text(stats).splitlines() if line.startswith("| reinforce"))
    assert row.endswith("| kl_to_base is not known |")


def test_the_table_can_be_read_alone_and_beside_statistics() -> None:
    plain = as_text().splitlines()
    assert len(plain) == 2 + len(TABLE)
    assert "| best-of-n | density < 0.02 | a cold start" in as_text()
    judged = as_text(reward_stats(groups(2, 32, denoising(0)), 0.0)).splitlines()
    assert all(line.startswith(start) for line, start in zip(judged, plain, strict=True))
    ends = {line.split(" | ")[0]: line.removesuffix(" |").rsplit(" | ", 1)[1] for line in judged}
    assert ends["| grpo"] == "holds"
    assert ends["| dpo"] == "not ordinal"
    assert ends["| best-of-n"] == "density 1 not < 0.02"


def test_every_algorithm_of_the_design_has_a_case_and_every_condition_a_statistic() -> None:
    assert set(EVERY) == {"ppo", "grpo", "entropic", "reinforce", "best-of-n", "dpo"}
    names = {field.name for field in fields(RewardStats)}
    assert {condition.statistic for row in TABLE for condition in row.when} <= names


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(-1e9, 1e9)), min_size=1, max_size=30),
    st.floats(-1e9, 1e9),
    st.booleans(),
)
def test_the_table_has_an_answer_whatever_the_rewards(
    scored: list[tuple[int, float]], failure: float, ordinal: bool
) -> None:
    stats = reward_stats([Rollout(f"i{index}", "ok", reward) for index, reward in scored], failure, ordinal=ordinal)
    choices = recommend(stats, EVERY)
    assert choices
    assert all(isinstance(choice, Choice) and choice.held for choice in choices)
    assert verdict(stats, EVERY)
