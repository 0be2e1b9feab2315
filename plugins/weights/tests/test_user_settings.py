"""The settings of updates that a user gives by ``--train``."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from sia_cli.configuration import add_configuration, config_of
from sia_core.decision import Training
from sia_core.errors import UsageError
from sia_weights.lever import WeightLever
from sia_weights.user_settings import UserSettings

TRAIN = "steps=24,prompts=16, group=8,learning_rate=5e-4,temperature=0.7"


def config(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    add_configuration(parser)
    return config_of(parser.parse_args(["--plugin", "some", *arguments]))


def test_the_settings_reach_the_lever_and_the_temperature_reaches_the_engine() -> None:
    asked = config("--levers", "harness,weights", "--policy", "smollm2", "--train", TRAIN)
    settings = {"steps": "24", "prompts": "16", "group": "8", "learning_rate": "5e-4"}
    assert asked.lever_settings == {"weights": settings}
    assert asked.engine.settings == {"policy": "smollm2", "seed": 0, "temperature": "0.7"}
    assert WeightLever(**settings).pull_cost(128).kinds["rollouts"] == 24 * 16 * 8


def test_they_are_for_a_run_that_trains() -> None:
    with pytest.raises(UsageError, match="--train: this run pulls no lever that trains; add weights to --levers"):
        config("--train", "steps=24")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"step": "24"},
            r"--train step: there is no such setting \(did you mean 'steps'\?\). The settings are distinct, .*, temp",
        ),
        ({"steps": "many"}, "--train steps=many: should be a valid integer"),
        ({"steps": "0"}, "--train steps=0: should be greater than or equal to 1"),
        ({"learning_rate": "nan"}, "--train learning_rate=nan: should be"),
    ],
)
def test_a_wrong_one_is_named(settings: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        WeightLever(**settings)


def test_a_word_that_is_no_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="--train 'fast': write KEY=VALUE"):
        config("--levers", "weights", "--train", "fast")


def test_learners_advise_what_the_user_left_open() -> None:
    settings = UserSettings.of({"steps": "24", "group": "4"})
    assert settings.over(Training(steps=6, prompts=8, group=16)) == Training(steps=24, prompts=8, group=4)


def test_an_improver_may_cut_what_a_budget_bounds_and_nothing_else() -> None:
    settings = UserSettings.of({"steps": "24", "prompts": "16", "group": "8", "learning_rate": "5e-4"})
    cut = settings.within(Training(steps=10, prompts=999, group=2, learning_rate=1e-2))
    assert cut == Training(steps=10, prompts=16, group=8, learning_rate=5e-4)


def test_a_time_for_an_update_is_the_most_that_it_gets() -> None:
    settings = UserSettings.of({"seconds": "60"})
    assert [settings.within(Training(seconds=each)).seconds for each in (None, 30.0, 90.0)] == [60.0, 30.0, 60.0]


def test_where_nothing_is_set_all_stays_as_it_was() -> None:
    assert (
        UserSettings.of({}).over(Training(steps=3))
        == UserSettings.of({}).within(Training(steps=3))
        == Training(steps=3)
    )
