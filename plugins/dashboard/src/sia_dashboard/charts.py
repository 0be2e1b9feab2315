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


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` to ``high``, drawn from pixel ``start`` to pixel ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, room: float = 0.05) -> Axis:
        """An axis that holds finite values with a little room at both ends."""
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = max(min(known), -LARGEST_REWARD), min(max(known), LARGEST_REWARD)
        low = min(low, high)
        wide = high - low > 1e-9 * max(abs(low), abs(high)) and high - low > SMALLEST
        more = (high - low) * room if wide else max(abs(high), 1.0) * room
        return cls(low - more, high + more, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value, kept on the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Round values along the axis, at most about ``count``: pixel and label."""
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / count))
        step *= next(each for each in (1, 2, 5, 10) if span / (step * each) <= count)
        places = max(0, -math.floor(math.log10(step)))
        first = math.ceil(self.low / step)
        values = [number * step for number in range(first, math.floor(self.high / step) + 1)]
        plain = 1e-6 < step < 1e9
        return [(self.at(value), f"{value:,.{places}f}" if plain else f"{value:.4g}") for value in values]


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
    points: Sequence[Point]
    line: str
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A curve with its axes."""

    title: str
    width: float
    height: float
    points: str
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]
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
    bars: Sequence[Bar]
    x: Sequence[tuple[float, str]]
    total: int


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, as a mark on a row of its own."""

    label: str
    y: float
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Forest:
    """Figures with their intervals, one below the other on one axis."""

    title: str
    width: float
    height: float
    rows: Sequence[Interval]
    x: Sequence[tuple[float, str]]


def scores(first: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]]) -> Scores | None:
    """The chart of a run's gate scores; None before there is one.

    A candidate stands at the incumbent of its moment plus its paired change, whose interval it wears.
    """
    gated = [row for row in rows if row["gate"]][-MOST_POINTS:]
    if first is None and not gated:
        return None
    width, height, left, right, top, bottom = 720.0, 260.0, 48.0, 12.0, 10.0, 30.0
    begin = first["value"] if first else gated[0]["gate"]["incumbent"]
    spans = [tuple(row["gate"]["incumbent"] + each for each in row["gate"]["ci95"]) for row in gated]
    values = [begin, *(first["ci95"] if first else ()), *(each for span in spans for each in span)]
    y = Axis.over(values, height - bottom, top)
    x = Axis(-0.5, len(gated) + 0.5, left, width - right)
    now, path, points = begin, [f"{x.at(0)},{y.at(begin)}"], []
    if first:
        low, high = first["ci95"]
        points.append(Point(x.at(0), y.at(begin), y.at(low), y.at(high), f"first agent {begin:.4f}", "", "", True))
    for place, (row, (low, high)) in enumerate(zip(gated, spans, strict=True), 1):
        score = row["gate"]["incumbent"] + row["gate"]["delta"]
        verdict = "accepted" if row["accepted"] else "rejected"
        name = f"{row['index']}.{row['candidate']}"
        label = f"{name} {row['name']}: {score:.4f}, {verdict}"
        where = x.at(place), y.at(score), y.at(low), y.at(high)
        points.append(Point(*where, label, name, row["lever"], row["accepted"]))
        path.append(f"{x.at(place)},{y.at(now)}")
        if row["accepted"]:
            now = score
            path.append(f"{x.at(place)},{y.at(now)}")
    path.append(f"{x.at(len(gated) + 0.5)},{y.at(now)}")
    labels = [(x.at(0), "start"), *((x.at(n), f"{row['index']}.{row['candidate']}") for n, row in enumerate(gated, 1))]
    every = -(-len(labels) // 16)
    return Scores(width, height, points, " ".join(path), y.ticks(), labels[::every])


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
    found = []
    for key, title in CURVES:
        known = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
        if len(known) > 1:
            found.append(_line(title, known[:: -(-len(known) // MOST_POINTS)]))
    return found


def _line(title: str, known: Sequence[tuple[float, float]]) -> Line:
    width, height, left, right, top, bottom = 340.0, 160.0, 52.0, 8.0, 8.0, 24.0
    y = Axis.over([value for _, value in known], height - bottom, top)
    x = Axis.over([step for step, _ in known], left, width - right, room=0.02)
    points = " ".join(f"{x.at(step)},{y.at(value)}" for step, value in known)
    return Line(title, width, height, points, y.ticks(4), x.ticks(4), known[0][1], known[-1][1])


def histogram(rewards: Sequence[float], title: str) -> Histogram | None:
    """The distribution of rewards; None where there are none."""
    rewards = [max(-LARGEST_REWARD, min(LARGEST_REWARD, reward)) for reward in rewards if not math.isnan(reward)]
    if not rewards:
        return None
    width, height, left, right, top, bottom = 340.0, 160.0, 10.0, 10.0, 8.0, 24.0
    low, high = min(rewards), max(rewards)
    if not high - low > max(SMALLEST, 1e-9 * max(abs(low), abs(high))):
        room = max(0.5, 0.01 * abs(high))
        low, high = low - room, high + room
    step = (high - low) / BINS
    counts = [0] * BINS
    for reward in rewards:
        counts[min(BINS - 1, int((reward - low) / step))] += 1
    x = Axis(low, high, left, width - right)
    y = Axis(0, max(counts), height - bottom, top)
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
    return Histogram(title, width, height, bars, x.ticks(4), len(rewards))


def forest(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], sign: str = "") -> Forest | None:
    """Figures with their intervals (label, ``{"value", "ci95"}``), a change beside zero; None where there are none."""
    rows = rows[:MOST_ROWS]
    if not rows:
        return None
    width, left, right, line, top = 720.0, 220.0, 170.0, 26.0, 8.0
    ends = [end for _, each in rows for end in each["ci95"]] + ([0.0] if sign else [])
    x = Axis.over(ends, left, width - right)
    drawn = []
    for place, (label, each) in enumerate(rows):
        low, high = each["ci95"]
        text = f"{each['value']:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
        y = top + line * (place + 0.5)
        drawn.append(Interval(label, y, x.at(each["value"]), x.at(low), x.at(high), text))
    return Forest(title, width, top + line * len(rows) + 24, drawn, x.ticks(5))
