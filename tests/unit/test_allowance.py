"""Tokens are set aside before they are spent: never more in all than there are, whatever batches use."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.run.allowance import Allowance


def test_without_a_limit_nothing_is_shared_out_and_all_is_counted() -> None:
    mine = Allowance()
    assert mine.share(64, 2) is None
    mine.settle(None, 64, 640.0, peak=30)
    mine.forfeit()
    assert (mine.spent, mine.mean, mine.peak, mine.left) == (640.0, 10.0, 30, math.inf)


def test_batches_that_start_together_have_even_shares_and_what_one_leaves_the_next_gets() -> None:
    mine = Allowance(1000)
    assert [mine.share(10, 2), mine.share(10, 1)] == [50, 50]
    mine.settle(50, 10, 100.0)
    assert mine.share(10) == 40
    mine.settle(50, 10, 500.0)
    assert mine.left == 0
    assert mine.share(10) == 0


def test_what_is_not_heard_of_again_counts_as_used_up() -> None:
    mine = Allowance(1000)
    mine.share(10, 2)
    mine.forfeit()
    assert (mine.spent, mine.left) == (500, 500)


@given(st.integers(0, 10_000), st.integers(1, 5), st.lists(st.tuples(st.integers(1, 64), st.floats(0, 1)), max_size=40))
def test_no_course_of_batches_takes_more_than_there_is(
    tokens: int, slots: int, batches: list[tuple[int, float]]
) -> None:
    mine, running, waiting = Allowance(tokens), deque[tuple[int, int, float]](), deque(batches)
    while waiting or running:
        while waiting and len(running) < slots:
            rollouts, used = waiting.popleft()
            each = mine.share(rollouts, slots - len(running))
            assert each is not None
            assert each >= 0
            running.append((each, rollouts, used))
            assert mine.left >= 0
        each, rollouts, used = running.popleft()
        mine.settle(each, rollouts, used * each * rollouts)
    assert mine.spent <= tokens + 1e-6
    assert mine.left == pytest.approx(tokens - mine.spent)
