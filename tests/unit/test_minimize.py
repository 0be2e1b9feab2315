"""A metric to minimise: rewards of which more is better inside of a run, values of the metric outside."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from sia_cli.report_text import curse
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.hookspecs import Event
from sia_core.plugins import Source
from sia_core.run.intervals import estimate, in_units
from sia_core.run.observe import Emitter
from sia_core.types import Metric
from sia_llm import prompts
from sia_runtime.metrics import metric_of, worst

RMSE = Metric("rmse", "minimize", bounds=(1.0, 20.0))


def test_a_reward_is_the_value_negated_and_turns_back() -> None:
    assert RMSE.reward(2.5) == -2.5
    assert RMSE.reward(RMSE.reward(2.5)) == 2.5
    assert str(RMSE.reward(0.0)) == "0.0"
    assert RMSE.reward_bounds == (-20.0, -1.0)
    right = Metric("right", bounds=(0.0, 3.0))
    assert (right.reward(2.5), right.reward_bounds) == (2.5, (0.0, 3.0))
    assert Metric("loss", "minimize", bounds=None).reward_bounds is None


def test_observers_are_told_values_of_the_metric() -> None:
    events: list[Event] = []
    emit = Emitter([(Source("core", "sia-core", "0"), events.append)], "minimize")
    row = {"gate": {"incumbent": -2.0, "candidate": -1.5, "delta": 0.5, "ci95": [0.2, 0.8], "n": 9, "p": 0.01}}
    emit("candidate.gated", candidate=1, gain=0.4, predicted=0.1, accepted=True, **row)
    emit("seal.finished", value=-1.5, metrics={"value": 3.0}, gap={"value": 0.1, "ci95": (-0.2, 0.4)})
    emit("training.progress", steps=[{"step": 1, "reward": -3.0, "kl": 0.1}])
    gated, sealed, trained = (each.data for each in events)
    assert gated["gate"] == {"incumbent": 2.0, "candidate": 1.5, "delta": -0.5, "ci95": [-0.8, -0.2], "n": 9, "p": 0.01}
    assert (gated["candidate"], gated["gain"], gated["predicted"]) == (1, 0.4, 0.1)
    assert (sealed["value"], sealed["metrics"], sealed["gap"]) == (
        1.5,
        {"value": 3.0},
        {"value": -0.1, "ci95": [-0.4, 0.2]},
    )
    assert trained["steps"] == [{"step": 1, "reward": 3.0, "kl": 0.1}]
    assert in_units("maximize", row) is row


def test_shares_of_failures_have_the_interval_of_shares() -> None:
    low, high = estimate([1.0] * 3 + [0.0] * 17).ci95
    mirrored = estimate([-1.0] * 3 + [0.0] * 17)
    assert mirrored.ci95 == (-high, -low)
    assert mirrored.value == -0.15


def test_the_winners_curse_of_an_error_is_a_gate_that_errs_less() -> None:
    final = {"gap": {"value": -0.5, "ci95": [-0.8, -0.2]}}
    assert "does better on the gate than on sealed" in curse(final, "minimize")
    assert "does better on sealed than on the gate" in curse(final, "maximize")


def test_a_model_is_told_how_rewards_follow_from_the_metric() -> None:
    seed = HarnessTree({"harness.py": b"def solve(instance, ctx): return 1\n"})
    text = " ".join(prompts.system("b", RMSE, seed)[1].split())
    assert (
        "Metric: rmse, from 1 to 20 (minimize; every reward, mean, prediction and gain that you see or give is of"
        in text
    )
    assert "a metric of 0.5 is a reward of -0.5" in text
    assert "Metric: right, from 0 to 1 (maximize)." in prompts.system("b", Metric("right"), seed)[1]


@pytest.mark.parametrize(
    ("text", "metric", "failure"),
    [
        ("score", Metric("score"), 0.0),
        ("error:min", Metric("error", "minimize"), 1.0),
        ("rmse:min:1,20", RMSE, 20.0),
        ("speed:max:-1e3,2.5", Metric("speed", bounds=(-1000.0, 2.5)), -1000.0),
        ("f1:0,100", Metric("f1", bounds=(0.0, 100.0)), 0.0),
    ],
)
def test_a_metric_as_users_write_it(text: str, metric: Metric, failure: float) -> None:
    assert metric_of(text) == metric
    assert worst(metric) == failure


NO_BOUNDS = [
    (1.0, 0.0),
    (0.5, 0.5),
    (math.nan, 1.0),
    (0.0, math.nan),
    (0.0, math.inf),
    (-math.inf, 0.0),
    (-math.inf, math.inf),
    (-1e308, 1e308),
    (0.0,),
    (0.0, 1.0, 2.0),
    (0.0, "1"),
    "01",
    1.0,
]


@pytest.mark.parametrize("bounds", NO_BOUNDS, ids=str)
def test_bounds_that_cannot_be_are_refused_where_the_metric_is_made(bounds: Any) -> None:
    with pytest.raises(UsageError) as raised:
        Metric("rmse", bounds=bounds)
    says = str(raised.value)
    assert says.startswith(f"metric 'rmse': bounds {bounds!r} must be its least and its largest value, in this order")
    assert says.endswith("Where it is not bounded on both sides, write bounds=None")
    with pytest.raises(UsageError):
        replace(Metric("rmse"), bounds=bounds)


@pytest.mark.parametrize("ends", ["1,0", "1,1", "nan,1", "0,nan", "0,inf", "-inf,0", "0,1e101", "0", "0,1,2", "a,b"])
def test_ends_that_cannot_be_are_refused_as_users_write_them(ends: str) -> None:
    with pytest.raises(UsageError, match=rf"metric 'rmse:min:{ends}': write NAME, NAME:min or NAME:min:LOW,HIGH"):
        metric_of(f"rmse:min:{ends}")


def test_a_direction_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="metric 'loss': direction 'minimise' must be maximize or minimize"):
        Metric("loss", "minimise")  # type: ignore[arg-type]
