"""Means with their 95% intervals, for reading: they decide nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` instances with its 95% confidence interval."""

    value: float
    n: int
    ci95: tuple[float, float]


def estimate(values: Sequence[float]) -> Interval:
    """Mean with a 95% interval: Wilson's for values that are 0 or 1, the normal one otherwise."""
    n, mean = len(values), fmean(values)
    if all(value in (0.0, 1.0) for value in values):
        denominator = 1 + _Z95**2 / n
        centre = (mean + _Z95**2 / (2 * n)) / denominator
        half = _Z95 * math.sqrt(mean * (1 - mean) / n + _Z95**2 / (4 * n * n)) / denominator
        return Interval(mean, n, (max(0.0, centre - half), min(1.0, centre + half)))
    return normal(values)


def normal(values: Sequence[float]) -> Interval:
    """Mean with the normal 95% interval."""
    n, mean = len(values), fmean(values)
    # One value says nothing of the spread. Its interval is wide, and finite since it is recorded as JSON.
    half = _Z95 * stdev(values) / math.sqrt(n) if n > 1 else 2 * max(1.0, abs(mean))
    return Interval(mean, n, (mean - half, mean + half))


def beside(sealed: Interval, gate: Interval) -> dict[str, Any]:
    """A sealed score with the same agent's gate score and the gap between them, gate less sealed, as JSON.

    The gap's interval is made of the two (Newcombe 1998; Zou and Donner 2008), so it is as good as they are.
    """
    (low, high), (least, most) = gate.ci95, sealed.ci95
    gap = gate.value - sealed.value
    below, above = (
        math.hypot(gate.value - low, most - sealed.value),
        math.hypot(high - gate.value, sealed.value - least),
    )
    return {**asdict(sealed), "gate": asdict(gate), "gap": {"value": gap, "ci95": (gap - below, gap + above)}}
