"""Each learner's credit for rewards, in numbers worked out by hand, and its refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from sia_algorithms.best_of_n import BestOfN
from sia_algorithms.dpo import Dpo
from sia_algorithms.entropic import Entropic, adaptive_beta
from sia_algorithms.grpo import Grpo
from sia_algorithms.ppo import Ppo
from sia_algorithms.reinforce import Reinforce
from sia_core.errors import NoSignal, TrainingError
from sia_core.learning import Batch, Learner, Sample, Trace

REWARDS = [[0.0, 1.0, 0.25, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def token(reward: float, token: int = 1, **more: Any) -> Sample:
    """A rollout of one sampled token after one of the prompt."""
    trace = Trace([0, token], [0, 1], [0.0, -1.0], values=[0.0, 0.5], reference=[0.0, -1.5])
    return Sample("one", "agent", reward, [trace], **more)


def advantages(learner: Learner, rewards: list[float]) -> list[float]:
    """The advantage of each sampled token of a group of one-token rollouts."""
    group = [token(reward, number) for number, reward in enumerate(rewards)]
    return [datum.advantages[1] for datum in learner.credit([group])]


class TestGrpo:
    def test_an_advantage_is_the_distance_from_the_groups_mean_in_deviations(self) -> None:
        rewards = [0.0, 1.0, 0.25, 0.5]
        expected = [(r - fmean(rewards)) / (stdev(rewards) + 1e-4) for r in rewards]
        assert advantages(Grpo(), rewards) == pytest.approx(expected)

    def test_without_the_deviation_it_is_the_distance_alone(self) -> None:
        assert advantages(Grpo(divide_by_std=False), [0.0, 1.0]) == [-0.5, 0.5]

    def test_flat_groups_count_in_the_mean_unless_dropped_and_send_no_data_either_way(self, toy: Any) -> None:
        groups = [[token(0.0), token(1.0)], [token(1.0), token(1.0)]]
        whole, dropped = Grpo().credit(groups), Grpo(drop_flat=True).credit(groups)
        assert [len(whole), whole[0].normaliser] == [2, 4.0]
        assert [len(dropped), dropped[0].normaliser] == [2, 2.0]

    def test_a_masked_truncated_rollout_counts_in_the_baseline_and_gets_no_gradient(self) -> None:
        group = [token(0.0), token(1.0), token(0.0, truncated=True)]
        data = Grpo(mask_truncated=True, divide_by_std=False).credit([group])
        assert [datum.advantages[1] for datum in data] == pytest.approx([-1 / 3, 2 / 3])
        assert data[0].normaliser == 3.0

    def test_aggregations_differ_in_what_they_divide_by(self) -> None:
        group = [token(0.0), token(1.0)]
        assert Grpo(aggregate="token_mean").credit([group])[0].normaliser == 2.0
        assert Grpo(aggregate="constant", max_tokens=50).credit([group])[0].normaliser == 100.0

    def test_a_constant_length_must_be_named_with_the_aggregation_that_uses_it(self) -> None:
        with pytest.raises(ValueError, match="set both or neither"):
            Grpo(aggregate="constant")
        with pytest.raises(ValueError, match="set both or neither"):
            Grpo(max_tokens=5)

    def test_the_base_is_asked_only_where_the_kl_has_weight(self) -> None:
        assert "reference" not in Grpo().needs
        assert "reference" in Grpo(kl_weight=0.01).needs


class TestReinforce:
    def test_the_baseline_is_the_mean_of_the_others(self) -> None:
        assert advantages(Reinforce(kl_weight=0.0), [1.0, 0.0, 0.5]) == pytest.approx([0.75, -0.75, 0.0][:2])

    def test_k1_is_taken_off_the_reward(self) -> None:
        near, far = token(1.0), token(0.0)
        far = replace(far, traces=[replace(far.traces[0], reference=[0.0, -3.0])])
        first, second = Reinforce(kl_weight=0.1).credit([[near, far]])
        # The rewards less their KL are 1 - 0.1 * 0.5 and 0 - 0.1 * 2.
        assert first.advantages[1] == pytest.approx(0.95 + 0.2)
        assert second.advantages[1] == pytest.approx(-1.15)


class TestEntropic:
    def test_the_tilt_of_a_group_is_ln_2(self) -> None:
        gaps = [-1.0, -0.7, -0.2, 0.0, -0.9, -0.5, -1.0, -0.8]
        beta = adaptive_beta(gaps, math.log(2))
        weights = [math.exp(beta * gap) for gap in gaps]
        shares = [weight / sum(weights) for weight in weights]
        assert sum(q * math.log(len(gaps) * q) for q in shares) == pytest.approx(math.log(2), rel=1e-12)

    def test_where_too_many_tie_for_the_best_only_they_count(self) -> None:
        assert advantages(Entropic(kl_weight=0.0), [1.0, 1.0, 1.0, 0.0]) == pytest.approx([0.5, 0.5, 0.5, -1.0])

    def test_the_base_pulls_tokens_that_drifted_more_than_the_mean(self) -> None:
        group = [token(reward, number) for number, reward in enumerate([1.0, 0.0, 0.0, 0.0])]
        group[1] = replace(group[1], traces=[replace(group[1].traces[0], reference=[0.0, -3.0])])
        plain = [d.advantages[1] for d in Entropic(kl_weight=0.0).credit([group])]
        result = [d.advantages[1] for d in Entropic(kl_weight=0.1).credit([group])]
        mean = (3 * 0.5 + 2.0) / 4
        pull = [0.1 * (mean - drift) for drift in (0.5, 2.0, 0.5, 0.5)]
        assert result == pytest.approx([a + b for a, b in zip(plain, pull, strict=True)])

    def test_flat_groups_are_dropped(self) -> None:
        data = Entropic().credit([[token(0.0), token(1.0), token(0.0)], [token(1.0)] * 3])
        assert [len(data), data[0].normaliser] == [3, 3.0]

    def test_a_group_of_two_is_refused(self) -> None:
        with pytest.raises(TrainingError, match="three or more"):
            Entropic().credit([[token(0.0), token(1.0)]])


class TestPpo:
    def test_advantages_sum_the_discounted_errors_of_the_critic(self, toy: Any) -> None:
        trace = Trace([3, 1, 2, 5, 4], [0, 1, 0, 1, 1], [0.0, -1.0, 0.0, -1.0, -1.0], values=[9, 0.2, 9, 0.4, 0.1])
        data = Ppo(whiten=False, lam=0.5).credit([[Sample("one", "agent", 1.0, [trace]), token(0.0)]])
        last = 1.0 - 0.1
        middle = (0.1 - 0.4) + 0.5 * last
        first = (0.4 - 0.2) + 0.5 * middle
        assert data[0].advantages == pytest.approx([0.0, first, 0.0, middle, last])
        assert data[0].returns == pytest.approx([0.0, first + 0.2, 0.0, middle + 0.4, 1.0])
        assert data[0].normaliser == 4.0

    def test_step_rewards_count_where_they_stand_and_across_traces(self) -> None:
        first = Trace([0, 1], [0, 1], [0.0, -1.0], values=[0.0, 0.0], step_rewards=[(1, 0.25), (1, 0.25)])
        second = Trace([0, 1], [0, 1], [0.0, -1.0], values=[0.0, 0.0])
        data = Ppo(whiten=False, lam=1.0).credit([[Sample("one", "agent", 1.0, [first, second]), token(1.0)]])
        assert [datum.advantages[1] for datum in data] == [1.5, 1.0, 0.5]

    def test_steps_that_earn_the_same_everywhere_teach_nothing(self) -> None:
        steps = [Trace([0, 1], [0, 1], [0.0, -1.0], values=[0.0, v], step_rewards=[(1, 0.0)]) for v in (0.1, 0.2)]
        with pytest.raises(NoSignal, match="step by step"):
            Ppo().credit([[Sample("one", "agent", 1.0, [trace]) for trace in steps]])

    def test_the_base_costs_each_token_what_it_drifted(self) -> None:
        data = Ppo(whiten=False, lam=0.0, kl_weight=0.1).credit([[token(1.0), token(0.0)]])
        assert [datum.returns[1] for datum in data if datum.returns] == pytest.approx([0.95, -0.05])
        assert "reference" in Ppo(kl_weight=0.1).needs

    def test_whitened_advantages_have_mean_zero_and_deviation_one(self, toy: Any) -> None:
        data = Ppo().credit(toy.groups(REWARDS))
        sampled = [a for d in data for a, m in zip(d.advantages, d.trace.mask, strict=True) if m]
        assert fmean(sampled) == pytest.approx(0.0, abs=1e-12)
        assert fmean(a * a for a in sampled) == pytest.approx(1.0)


class TestDpo:
    def test_the_best_meets_the_worst_and_each_rollout_one_other(self) -> None:
        group = [token(reward, number) for number, reward in enumerate([0.1, 0.9, 0.5, 0.3, 0.4])]
        data = Dpo().credit([group])
        pairs = [(d.pair, d.trace.tokens[1], d.advantages[1]) for d in data]
        assert pairs == [(0, 1, 1.0), (0, 0, -1.0), (1, 2, 1.0), (1, 3, -1.0)]
        assert data[0].normaliser == 2.0

    def test_a_difference_below_the_margin_makes_no_pair(self) -> None:
        group = [token(reward, number) for number, reward in enumerate([0.0, 1.0, 0.4, 0.5])]
        assert len(Dpo(margin=0.5).credit([group])) == 2
        with pytest.raises(NoSignal, match="by 2 or more"):
            Dpo(margin=2.0).credit([group])

    def test_a_split_pair_is_refused(self) -> None:
        data = Dpo().credit([[token(0.0), token(1.0)]])
        with pytest.raises(TrainingError, match="splits a preference pair"):
            Batch.of(data[:1], list, list)


class TestBestOfN:
    def test_it_keeps_the_best_that_earned_anything_each_text_once(self) -> None:
        group = [token(1.0, 3), token(1.0, 3), token(0.5, 4), token(0.25, 5), token(0.0, 6)]
        data = BestOfN(top=2).credit([group, [token(0.0)]])
        assert [datum.trace.tokens[1] for datum in data] == [3, 4]
        assert data[0].normaliser == 2.0

    def test_a_reply_that_is_nearly_certain_already_is_not_imitated_again(self) -> None:
        unsure, sure = token(1.0, 3), token(1.0, 4)
        sure = replace(sure, traces=[replace(sure.traces[0], logprobs=[0.0, math.log(0.95)])])
        data = BestOfN().credit([[unsure], [sure]])
        assert [datum.trace.tokens[1] for datum in data] == [3]
        assert data[0].normaliser == 1.0
        with pytest.raises(NoSignal, match="nothing left to learn by imitation"):
            BestOfN().credit([[sure]])

    def test_ties_do_not_favour_low_token_ids(self) -> None:
        first = [BestOfN().credit([[token(1.0, n), token(1.0, n + 1)]])[0].trace.tokens[1] - n for n in range(64)]
        assert 0.25 < fmean(first) < 0.75


class TestFailsLoudly:
    @pytest.mark.parametrize("reward", [0.0, 1.0])
    def test_rewards_that_are_all_the_same_teach_nothing(self, learner: Learner, toy: Any, reward: float) -> None:
        if isinstance(learner, BestOfN) and reward > 0:
            pytest.skip("imitation has something to imitate")
        with pytest.raises(NoSignal):
            learner.credit(toy.groups([[reward] * 4, [reward] * 4]))

    def test_groups_that_differ_only_from_each_other_teach_a_relative_learner_nothing(self, toy: Any) -> None:
        for relative in (Grpo(), Entropic(), Reinforce(), Dpo()):
            with pytest.raises(NoSignal):
                relative.credit(toy.groups([[0.0] * 4, [1.0] * 4]))

    def test_rewards_that_differ_by_rounding_alone_are_the_same(self, toy: Any) -> None:
        for relative in (Grpo(), Entropic(), Reinforce()):
            with pytest.raises(NoSignal):
                relative.credit(toy.groups([[0.1 + 0.2, 0.3, 0.3, 0.3]]))

    def test_groups_of_one_teach_a_relative_learner_nothing(self, toy: Any) -> None:
        for relative in (Grpo(), Entropic(), Reinforce(), Dpo()):
            with pytest.raises(NoSignal):
                relative.credit(toy.groups([[0.0], [1.0]]))

    def test_rollouts_that_never_asked_the_policy_teach_nothing(self, learner: Learner) -> None:
        with pytest.raises(NoSignal):
            learner.credit([[Sample("one", "agent", reward, []) for reward in (0.0, 1.0, 0.5)]])

    def test_no_rollouts_teach_nothing(self, learner: Learner) -> None:
        with pytest.raises(NoSignal):
            learner.credit([])

    def test_rollouts_all_cut_short_teach_nothing_where_those_are_masked(self) -> None:
        with pytest.raises(NoSignal, match="cut short"):
            Grpo(mask_truncated=True).credit([[token(0.0, truncated=True), token(1.0, truncated=True)]])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: replace(s, agent="an older one"), "stale rollouts"),
            (lambda s: replace(s, instance="another"), "mixes the instances"),
            (lambda s: replace(s, reward=math.nan), "reward nan"),
            (lambda s: replace(s, traces=[replace(s.traces[0], mask=[0])]), "1 mask for 2 tokens"),
            (lambda s: replace(s, traces=[replace(s.traces[0], mask=[1, 1])]), "0 at the first token"),
            (lambda s: replace(s, traces=[replace(s.traces[0], mask=[0, 2])]), "must be 0 or 1"),
            (lambda s: replace(s, traces=[replace(s.traces[0], logprobs=[0.0, -math.inf])]), "logprobs hold"),
            (lambda s: replace(s, traces=[replace(s.traces[0], step_rewards=[(0, 1.0)])]), "no token was sampled"),
        ],
    )
    def test_rollouts_that_must_not_be_trained_on_are_refused(
        self, learner: Learner, change: Any, message: str
    ) -> None:
        group = [token(1.0, 1), token(0.0, 2), token(0.0, 3)]
        with pytest.raises(TrainingError, match=message):
            learner.credit([[*group[:2], change(group[2])]])

    @pytest.mark.parametrize(
        ("needy", "lacking"),
        [(Ppo(), "values"), (Dpo(), "reference"), (Entropic(), "reference"), (Reinforce(), "reference")],
    )
    def test_what_a_learner_needs_must_have_been_recorded(self, needy: Learner, lacking: str) -> None:
        bare = [token(reward) for reward in (0.0, 1.0, 0.0)]
        bare = [replace(s, traces=[replace(s.traces[0], values=None, reference=None)]) for s in bare]
        with pytest.raises(TrainingError, match=f"needs {lacking}"):
            needy.credit([bare])


def stats(**more: Any) -> Any:
    """Reward statistics that nobody objects to, but for what is said."""
    plain = {
        "rollouts": 64,
        "instances": 8,
        "mean": 0.5,
        "deviation": 0.3,
        "success_rate": 0.2,
        "density": 0.6,
        "skew": 0.0,
        "flat_groups": 0.2,
        "stepwise": False,
    }
    return SimpleNamespace(**{**plain, **more})


class TestObjections:
    def test_nobody_objects_to_rewards_that_differ(self, learner: Learner) -> None:
        assert learner.objections(stats()) == []

    def test_everybody_objects_to_one_reward_for_all(self, learner: Learner) -> None:
        (objection,) = learner.objections(stats(deviation=0.0, mean=0.0, flat_groups=1.0))
        assert "every rollout earned 0" in objection

    def test_relative_learners_object_where_no_group_differs_within(self) -> None:
        for relative in (Grpo(), Entropic(), Reinforce(), Dpo()):
            (objection,) = relative.objections(stats(flat_groups=1.0))
            assert "in no group" in objection
        assert Ppo().objections(stats(flat_groups=1.0)) == []

    def test_groups_of_one_are_no_objection_for_they_say_nothing_of_larger_ones(self) -> None:
        assert Grpo().objections(stats(rollouts=8, flat_groups=None)) == []

    def test_step_rewards_are_signal_enough_for_ppo(self) -> None:
        assert Ppo().objections(stats(deviation=0.0, stepwise=True)) == []
