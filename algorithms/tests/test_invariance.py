"""Beyond the contract of learners: the sums to watch, the reward's scale, and what padding is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_algorithms.entropic import Entropic
from sia_core.learning import Batch, Learner, Sample

pytestmark = pytest.mark.thorough

REWARDS = [[0.0, 1.0, 0.25, 0.5], [1.0, 0.0, 0.0, 0.3, 0.1], [0.5, 0.5, 0.5]]


def test_the_sums_to_watch_are_those_of_the_parts(learner: Learner, toy: Any) -> None:
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
