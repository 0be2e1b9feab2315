"""Invariance to the order of rollouts, padding, the split into micro-batches, the reward's scale."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sia_algorithms.entropic import Entropic
from sia_core.learning import Batch, Learner, Sample

pytestmark = pytest.mark.thorough

REWARDS = [[0.0, 1.0, 0.25, 0.5], [1.0, 0.0, 0.0, 0.3, 0.1], [0.5, 0.5, 0.5]]


def same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-10, atol=1e-13)) and bool(a.abs().max() > 1e-6)


class TestNothingChanges:
    def test_when_groups_and_their_members_come_in_another_order(self, learner: Learner, toy: Any) -> None:
        groups = toy.groups(REWARDS)
        expected = toy.gradient(learner, learner.credit(groups))
        for seed in range(3):
            rng = random.Random(seed)
            shuffled = [rng.sample(group, len(group)) for group in rng.sample(groups, len(groups))]
            assert same(toy.gradient(learner, learner.credit(shuffled)), expected)

    def test_when_the_data_come_in_another_order(self, learner: Learner, toy: Any) -> None:
        data = learner.credit(toy.groups(REWARDS))
        expected = toy.gradient(learner, data)
        assert same(toy.gradient(learner, random.Random(0).sample(data, len(data))), expected)

    @pytest.mark.parametrize("micro", [1, 2, 3])
    def test_when_the_batch_is_split(self, learner: Learner, toy: Any, micro: int) -> None:
        data = learner.credit(toy.groups(REWARDS))
        assert same(toy.gradient(learner, data, micro=micro), toy.gradient(learner, data))

    def test_when_rows_are_padded(self, learner: Learner, toy: Any) -> None:
        data = learner.credit(toy.groups(REWARDS))
        assert same(toy.gradient(learner, data, length=40), toy.gradient(learner, data))

    def test_when_what_is_not_sampled_is_not_a_number(self, learner: Learner, toy: Any) -> None:
        data = learner.credit(toy.groups(REWARDS))
        clean = toy.gradient(learner, data)
        policy = toy.policy.forward

        def noisy(tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
            mask_BT = Batch.of(data, torch.tensor, lambda rows: torch.tensor(rows, dtype=torch.float64)).mask_BT
            logprobs_BT, values_BT = policy(tokens_BT)
            return (
                torch.where(mask_BT > 0, logprobs_BT, torch.nan),
                torch.where(mask_BT > 0, values_BT, torch.nan),
            )

        toy.policy.forward = noisy
        assert same(toy.gradient(learner, data), clean)

    def test_when_a_rollout_is_told_in_one_trace_or_the_sums_to_watch_in_parts(
        self, learner: Learner, toy: Any
    ) -> None:
        data = learner.credit(toy.groups(REWARDS))
        _, whole = toy.loss(learner, data)
        pairs = sorted({datum.pair for datum in data}, key=str)
        parts = [[d for d in data if d.pair == pair] for pair in pairs] if pairs != [None] else [[d] for d in data]
        sums = [toy.loss(learner, part)[1] for part in parts]
        for name, value in whole.items():
            assert float(value) == pytest.approx(sum(float(each[name]) for each in sums)), name
        assert float(whole["tokens"]) == sum(sum(datum.trace.mask) for datum in data)


class TestEntropicRewards:
    @settings(deadline=None, derandomize=True, database=None, max_examples=60)
    @given(
        rewards=st.lists(st.integers(0, 20), min_size=3, max_size=12).filter(lambda r: len(set(r)) > 1),
        scale=st.floats(1e-6, 1e6),
        shift=st.floats(-100, 100),
    )
    def test_an_affine_change_of_the_rewards_changes_no_advantage(
        self, rewards: list[int], scale: float, shift: float
    ) -> None:
        def advantages(values: list[float]) -> list[float]:
            return Entropic()._advantages([Sample("one", "agent", value, []) for value in values])

        # The shift is in units of the scale: a larger one loses the rewards' own digits, in any formula.
        changed = [scale * (reward + shift) for reward in rewards]
        assert advantages(changed) == pytest.approx(advantages([float(r) for r in rewards]), rel=1e-6, abs=1e-6)


class TestPadding:
    def test_shorter_rows_end_in_zeros(self, toy: Any) -> None:
        learner = Entropic()
        data = learner.credit(toy.groups([[0.0, 1.0, 0.5]]))
        batch = Batch.of(data, torch.tensor, torch.tensor, 30)
        assert batch.tokens_BT.shape == (len(data), 30)
        for row, datum in enumerate(data):
            length = len(datum.trace.tokens)
            assert batch.tokens_BT[row, :length].tolist() == datum.trace.tokens
            assert not batch.mask_BT[row, length:].any()

    def test_what_no_datum_has_is_none(self, toy: Any) -> None:
        (datum, *_) = Entropic(kl_weight=0.0).credit(toy.groups([[0.0, 1.0, 0.5]]))
        bare = replace(datum, trace=replace(datum.trace, reference=None, values=None))
        batch = Batch.of([bare], torch.tensor, torch.tensor)
        assert batch.reference_BT is batch.old_values_BT is batch.returns_BT is batch.pair_B is None
