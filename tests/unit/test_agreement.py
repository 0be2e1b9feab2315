"""When two engines' log-probabilities are taken for the same, and when not."""

from __future__ import annotations

import pytest

from sia_core.errors import TrainingError
from sia_runtime.agreement import mean_gap


def test_a_large_gap_on_one_token_is_rounding() -> None:
    assert mean_gap([0.46, *[0.01] * 99], 0.06) == pytest.approx(0.0145)


@pytest.mark.parametrize(
    "gaps",
    [[0.07] * 100, [-0.07] * 100, [0.0] * 99 + [3.0], [float("nan")], [0.01, float("inf")]],
    ids=["a little everywhere", "the other way", "one token that is another's", "no number", "infinite"],
)
def test_more_than_rounding_is_an_error(gaps: list[float]) -> None:
    with pytest.raises(TrainingError, match="nats on the mean"):
        mean_gap(gaps, 0.06)


def test_where_nothing_was_sampled_nothing_differs() -> None:
    assert mean_gap([], 0.06) == 0
