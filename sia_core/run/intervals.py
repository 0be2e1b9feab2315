"""Figures for reading, which decide nothing: means with their intervals, rewards in the metric's units, outcomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from sia_core.errors import excerpt

_Z95 = NormalDist().inv_cdf(0.975)

SMALL = 0.1
"""The share of a metric's bounds below which values are said to use little of them."""

_REWARDS = frozenset({"value", "mean", "reward", "delta", "incumbent", "candidate"})


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` instances with its 95% confidence interval."""

    value: float
    n: int
    ci95: tuple[float, float]


def estimate(values: Sequence[float]) -> Interval:
    """Mean with a 95% interval: Wilson's for values that are 0 or 1, or their negatives, the normal one otherwise."""
    n, mean = len(values), fmean(values)
    if mean < 0 and all(value in (0.0, -1.0) for value in values):  # the same, of what is to be minimised
        low, high = estimate([0.0 - value for value in values]).ci95
        return Interval(mean, n, (-high, -low))
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


def in_units(direction: str, row: Any, key: str = "") -> Any:
    """A record with its rewards, and their changes, in units of the metric. A gain stays: it says how much better."""
    if direction != "minimize" or key == "metrics":
        return row
    if isinstance(row, dict):
        return {name: in_units(direction, value, name) for name, value in row.items()}
    if isinstance(row, list | tuple):
        return [0.0 - end for end in reversed(row)] if key == "ci95" else [in_units(direction, each) for each in row]
    return 0.0 - row if key in _REWARDS and isinstance(row, float) else row


def narrow(values: Sequence[float], bounds: Sequence[float] | None) -> dict[str, Any] | None:
    """The part of a metric's bounds that some values take up; None where it is not small, or they are all alike."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    share = (high - low) / (bounds[1] - bounds[0]) if bounds else 0.0
    return {"share": share, "low": low, "high": high, "bounds": bounds} if 0 < share < SMALL else None


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The number of ``rollouts``, of answers that were ``null``, and each outcome without an answer that counts.

    A row is a recorded rollout. One without a ``message`` gives no example.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    total = null = 0
    for row in rows:
        total += 1
        if row["outcome"] == "ok":
            null += (row.get("answer") or "null").strip() == "null"
            continue
        counts[row["outcome"]] += 1
        if not examples.get(row["outcome"]):
            examples[row["outcome"]] = excerpt(row.get("message") or "")
    failed = [{"outcome": name, "count": count, "example": examples[name]} for name, count in counts.most_common()]
    return {"rollouts": total, "null": null, "failed": failed}
