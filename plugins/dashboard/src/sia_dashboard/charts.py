"""The geometry of the pictures: data in, coordinates out. The templates draw them as SVG, without a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.types import LARGEST_REWARD

BINS = 20

MOST_POINTS = 500
"""Of a curve, evenly spread; of the candidates on the chart of scores, the last."""

MOST_ROWS = 100

SMALLEST = 1e-100
"""A spread below this is none: the steps of its axis would be no numbers."""

SQUEEZED = 0.05
"""The least share of an axis with zero that values must take."""

FEW = 6
"""Candidates that fit side by side on a telephone."""


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` to ``high``, drawn from pixel ``start`` to pixel ``end``, a tick at each ``step``.

    ``cut`` says that it leaves out zero.
    """

    low: float
    high: float
    start: float
    end: float
    step: float
    cut: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, count: int = 5) -> Axis:
        """An axis that holds zero and all finite values, and begins and ends at a tick; at most ``count`` steps.

        Zero is left out where it would squeeze the values into less than a twentieth of the axis.
        """
        finite = [max(-LARGEST_REWARD, min(LARGEST_REWARD, each)) for each in values if math.isfinite(each)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        spread, bottom, top = high - low, min(low, 0.0), max(high, 0.0)
        differ = spread > 1e-9 * max(abs(low), abs(high)) and spread > SMALLEST
        cut = differ and spread < SQUEEZED * (top - bottom)
        if not cut:
            low, high = bottom, top if top - bottom > SMALLEST else bottom + 1.0
        step = 10.0 ** math.floor(math.log10((high - low) / count))
        for each in (1, 2, 5, 10, 20):
            first, last = _down(low / (step * each)), -_down(-high / (step * each))
            if last - first <= count:
                step *= each
                break
        return cls(first * step, last * step, start, end, step, cut)

    @classmethod
    def between(cls, low: float, high: float, start: float, end: float, count: int = 4) -> Axis:
        """An axis with exactly these ends, and at most ``count`` steps."""
        step = 10.0 ** math.floor(math.log10((high - low) / count))
        step *= next(each for each in (1, 2, 5, 10) if (high - low) / (step * each) <= count)
        return cls(low, high, start, end, step)

    def at(self, value: float) -> float:
        """The pixel of a value, kept on the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values along the axis: pixel and label."""
        places = max(0, -math.floor(math.log10(self.step)))
        first, last = -_down(-self.low / self.step), _down(self.high / self.step)
        values = [number * self.step for number in range(first, last + 1)]
        plain = 1e-6 < self.step < 1e9
        return [(self.at(value), f"{value:,.{places}f}" if plain else f"{value:.4g}") for value in values]


def _down(value: float) -> int:
    """The next whole number below; one that is whole but for rounding stays itself."""
    near = round(value)
    return near if math.isclose(value, near, rel_tol=1e-12, abs_tol=1e-9) else math.floor(value)


def _room(ticks: Sequence[tuple[float, str]]) -> float:
    """Pixels that the labels of an upright axis take."""
    return 14.0 + 6.5 * max((len(label) for _, label in ticks), default=0)


def _half(ticks: Sequence[tuple[float, str]]) -> float:
    """Pixels by which the last label of a level axis may stand out."""
    return max(10.0, 3.5 * len(ticks[-1][1])) if ticks else 10.0


@dataclass(frozen=True)
class Compared:
    """A candidate that was compared on the gate: the incumbent's score there before and after, and its own."""

    row: Mapping[str, Any]
    name: str
    before: float
    score: float
    low: float
    high: float

    @property
    def after(self) -> float:
        return self.score if self.row["accepted"] else self.before


def compared(
    first: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], bounds: Sequence[float] | None
) -> list[Compared]:
    """The candidates that were compared, in order.

    A candidate's score is the incumbent's on the whole gate plus the paired change. One that was stopped early was
    compared on the first instances alone, whose mean is another. No interval leaves the metric's bounds.
    """
    least, most = bounds or (-math.inf, math.inf)
    comparisons: list[Compared] = []
    for row in rows:
        if gate := row["gate"]:
            start = first["value"] if first else gate["incumbent"]
            before = comparisons[-1].after if comparisons else start
            low, high = (min(max(before + each, least), most) for each in gate["ci95"])
            comparisons.append(
                Compared(row, f"{row['index']}.{row['candidate']}", before, before + gate["delta"], low, high)
            )
    return comparisons


@dataclass(frozen=True)
class Point:
    """A candidate on the chart of scores: its place, its interval, and what it is."""

    x: float
    y: float
    low: float
    high: float
    label: str
    candidate: str
    lever: str
    accepted: bool


@dataclass(frozen=True)
class Scores:
    """Gate scores along a run: a point a candidate, and the incumbent's as a line."""

    width: float
    height: float
    left: float
    points: Sequence[Point]
    line: str
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]
    cut: bool
    few: bool


@dataclass(frozen=True)
class Line:
    """A curve with its axes."""

    title: str
    width: float
    height: float
    left: float
    points: str
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]
    cut: bool
    first: float
    last: float


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: where it stands, and how many rewards lie between ``low`` and ``high``."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Histogram:
    """How rewards are distributed."""

    title: str
    width: float
    height: float
    left: float
    bars: Sequence[Bar]
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]
    total: int


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, as a mark on its row."""

    label: str
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Forest:
    """Figures with their intervals, one below the other on one axis."""

    title: str
    width: float
    rows: Sequence[Interval]
    x: Sequence[tuple[float, str]]
    cut: bool


def scores(
    first: Mapping[str, Any] | None,
    rows: Sequence[Mapping[str, Any]],
    bounds: Sequence[float] | None = None,
) -> Scores | None:
    """The chart of a run's gate scores; None before there is one."""
    placed = compared(first, rows, bounds)
    if first is None and not placed:
        return None
    beyond, placed = placed[:-MOST_POINTS], placed[-MOST_POINTS:]
    begin = placed[0].before if placed else first["value"] if first else 0.0
    few = len(placed) <= FEW
    width, height, right, top, bottom = 400.0 if few else 720.0, 260.0, 12.0, 10.0, 30.0
    start = first if first and not beyond else None
    values = [begin, *(start["ci95"] if start else ())]
    values += [value for each in placed for value in (each.score, each.low, each.high)]
    y = Axis.over(values, height - bottom, top)
    left = _room(y.ticks())
    x = Axis.between(-0.5, len(placed) + 0.5, left, width - right)
    path, points = [f"{x.at(0)},{y.at(begin)}"], []
    if start:
        low, high = start["ci95"]
        points.append(Point(x.at(0), y.at(begin), y.at(low), y.at(high), f"first agent {begin:.4f}", "", "", True))
    for place, each in enumerate(placed, 1):
        row, before = each.row, each.before
        verdict = "accepted" if row["accepted"] else "rejected"
        change = f"{row['gate']['delta']:+.4f} against the incumbent's {before:.4f}"
        label = f"{each.name} {row['name']}: {change}, {verdict}"
        where = x.at(place), y.at(each.score), y.at(each.low), y.at(each.high)
        points.append(Point(*where, label, each.name, row["lever"], row["accepted"]))
        path += [f"{x.at(place)},{y.at(before)}", f"{x.at(place)},{y.at(each.after)}"]
    path.append(f"{x.at(len(placed) + 0.5)},{y.at(placed[-1].after if placed else begin)}")
    begins = "start" if start else "before"
    labels = [(x.at(0), begins), *((x.at(place), each.name) for place, each in enumerate(placed, 1))]
    some = labels[:: -(-len(labels) // 16)]
    return Scores(width, height, left, points, " ".join(path), y.ticks(), some, y.cut, few)


CURVES = (
    ("reward", "reward"),
    ("kl", "KL a step, nats a token"),
    ("surprise", "entropy (mean surprise of what was sampled), nats a token"),
    ("grad_norm", "gradient norm"),
    ("loss", "loss"),
    ("flat_groups", "share of groups without variance"),
)


def curves(steps: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A curve for each figure worth watching of a weight update; none for one recorded in fewer than two steps."""
    lines = []
    for key, title in CURVES:
        series = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
        if len(series) > 1:
            lines.append(_line(title, series[:: -(-len(series) // MOST_POINTS)]))
    return lines


def _line(title: str, series: Sequence[tuple[float, float]]) -> Line:
    width, height, top, bottom = 340.0, 160.0, 8.0, 24.0
    y = Axis.over([value for _, value in series], height - bottom, top, 4)
    steps = [step for step, _ in series]
    left, low, high = _room(y.ticks()), min(steps), max(steps)
    x = Axis.between(low, high if high > low else low + 1, left, width - 24.0)
    points = " ".join(f"{x.at(step)},{y.at(value)}" for step, value in series)
    return Line(title, width, height, left, points, y.ticks(), x.ticks(), y.cut, series[0][1], series[-1][1])


def histogram(rewards: Sequence[float], title: str, ends: tuple[float, float] | None = None) -> Histogram | None:
    """The distribution of rewards; None where there are none. Its axis has these ``ends``, or fits the rewards."""
    rewards = [max(-LARGEST_REWARD, min(LARGEST_REWARD, reward)) for reward in rewards if not math.isnan(reward)]
    if not rewards:
        return None
    width, height, top, bottom = 340.0, 160.0, 8.0, 24.0
    low, high = min(rewards), max(rewards)
    if ends and ends[0] <= low and high <= ends[1]:
        low, high = ends
    if not high - low > max(SMALLEST, 1e-9 * max(abs(low), abs(high))):
        room = max(0.5, 0.01 * abs(high))
        low, high = low - room, high + room
    step = (high - low) / BINS
    counts = [0] * BINS
    for reward in rewards:
        counts[min(BINS - 1, int((reward - low) / step))] += 1
    y = Axis.between(0, max(counts), height - bottom, top)
    labels = [(y.at(number), f"{number:,}") for number in (0, max(counts))]
    left = _room(labels)
    right = _half(Axis.between(low, high, left, width).ticks())
    x = Axis.between(low, high, left, width - right)
    bars = [
        Bar(
            x.at(low + n * step) + 0.5,
            y.at(count),
            round((width - left - right) / BINS - 1, 2),
            round(height - bottom - y.at(count), 2),
            low + n * step,
            low + (n + 1) * step,
            count,
        )
        for n, count in enumerate(counts)
        if count
    ]
    return Histogram(title, width, height, left, bars, labels, x.ticks(), len(rewards))


def ends(metric: Mapping[str, Any], rewards: Sequence[float]) -> tuple[float, float] | None:
    """The ends of the axis that charts of these rewards share; the metric's bounds, unless that would squeeze them."""
    finite = [reward for reward in rewards if math.isfinite(reward)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    bounds = metric.get("bounds")
    if bounds and bounds[0] <= low and high <= bounds[1]:
        whole = bounds[1] - bounds[0]
        if high - low >= SQUEEZED * whole or whole <= 1.0:
            return float(bounds[0]), float(bounds[1])
    return low, high


def forest(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], sign: str = "") -> Forest | None:
    """Figures with their intervals (label, ``{"value", "ci95"}``); None where there are none."""
    rows = rows[:MOST_ROWS]
    if not rows:
        return None
    width, side = 420.0, 24.0
    x = Axis.over([end for _, each in rows for end in (each["value"], *each["ci95"])], side, width - side)
    drawn = []
    for label, each in rows:
        low, high = each["ci95"]
        text = f"{each['value']:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
        drawn.append(Interval(label, x.at(each["value"]), x.at(low), x.at(high), text))
    return Forest(title, width, drawn, x.ticks(), x.cut)
