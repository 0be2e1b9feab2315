"""A metric as a user writes it: ``NAME[:max|min][:LOW,HIGH]``."""

from __future__ import annotations

from typing import Literal

from sia_core.errors import UsageError
from sia_core.types import LARGEST_REWARD, Metric
from sia_runtime.answers import number

_DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}


def metric_of(text: str) -> Metric:
    """The metric, maximised and between 0 and 1 where the text says nothing else; UsageError where it is none."""
    name, *rest = text.split(":")
    direction = _DIRECTIONS[rest.pop(0)] if rest and rest[0] in _DIRECTIONS else "maximize"
    ends = [number(each) for each in (rest.pop(0) if rest else "0,1").split(",")]
    low, high = ends if len(ends) == 2 else (None, None)
    if not name or rest or low is None or high is None or not -LARGEST_REWARD <= low < high <= LARGEST_REWARD:
        raise UsageError(
            f"metric {text!r}: write NAME, NAME:min or NAME:min:LOW,HIGH, such as rmse:min:0,20; LOW is the least "
            f"value that there can be and HIGH the largest, two numbers of at most {LARGEST_REWARD:g} (0,1 if they are "
            "left out)"
        )
    return Metric(name, direction, bounds=(low, high))


def worst(metric: Metric) -> float:
    """The worst value within the metric's bounds, which a failure earns."""
    return metric.reward(metric.reward_bounds[0]) if metric.reward_bounds else 0.0
