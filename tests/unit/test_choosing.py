"""Which of several models proposes."""

from __future__ import annotations

from collections import Counter

import pytest

from sia_core.errors import UsageError
from sia_llm import Settings
from sia_llm.choosing import Past, by_ucb, parsed

TWO = "dear=3,cheap=1"


def test_models_have_weights_and_one_without_has_the_weight_of_one() -> None:
    assert parsed("openai/a:8b=3, b") == {"openai/a:8b": 3.0, "b": 1.0}
    settings = Settings.of("a-model", {"models": TWO})
    assert settings.every_model == ["a-model", "dear", "cheap"]


@pytest.mark.parametrize("wrong", ["a=0", "a=-1", "a=inf", "a=nan", "a=much", "a,a", "=3"])
def test_a_weight_that_is_none_is_refused_with_how_to_write_it(wrong: str) -> None:
    with pytest.raises(UsageError, match="--improver-set models="):
        Settings.of("a-model", {"models": wrong})


def test_a_model_that_was_not_asked_yet_comes_first_in_the_order_of_the_setting() -> None:
    assert by_ucb({"a": Past(), "b": Past(), "c": Past(1, 0.5, 1.0)}, 2) == ["a", "b"]


def test_the_model_that_gains_more_for_a_dollar_is_asked_more_often_and_the_other_now_and_then() -> None:
    past = {"dear": Past(2, gain=0.6, dollars=10.0), "cheap": Past(2, gain=0.3, dollars=1.0)}
    counts = Counter(by_ucb(past, 40))
    assert counts["cheap"] > 2 * counts["dear"] > 0


def test_where_nothing_costs_a_dollar_tokens_count() -> None:
    past = {"long": Past(10, gain=0.5, tokens=10_000), "short": Past(10, gain=0.5, tokens=1_000)}
    assert by_ucb(past, 1) == ["short"]


def test_where_nobody_gained_anything_all_are_asked_alike() -> None:
    past = {"a": Past(1, dollars=1.0), "b": Past(1, dollars=9.0)}
    assert Counter(by_ucb(past, 10)) == {"a": 5, "b": 5}
