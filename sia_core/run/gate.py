"""The gate: an exact paired test of a candidate against the incumbent, which decides promotion.

Both agents face the same instances with the same seeds, so only the differences d_i = candidate_i - incumbent_i count.
Under "the candidate is no better" each sign is as likely as its opposite: where all differences are of one size the
test is the exact sign test, else the sign-flip test on their sum (Fisher 1935; Pitman 1937). A whole sweep is tested
once; a look at its beginning can only end it (:mod:`sia_core.run.gatekeeper`).

:class:`Levels` hands each comparison its level. A run begins with an error of 5% and earns more with every promotion;
what a comparison was given is used, whatever came of it. So a run in which no candidate is better promotes any with a
chance of at most 5%, and the expected number of false promotions is at most the sum of the levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from random import Random
from statistics import fmean
from typing import Any

from sia_core.run.intervals import normal

RUN_ERROR = 0.05
"""The chance that a run promotes anything if no candidate is better than its first agent."""

EARNED = 0.05
"""The error that a promotion earns for later comparisons, by default."""

MOST_EARNED = 0.2
"""More than this for a promotion would promise too little."""

GRAIN = 2.0**-30
"""Differences are rounded to this share of the reward's range, so that rounding errors decide nothing."""

EXHAUSTIVE = 13
"""The most differences of which all flips are tried."""

FLIPS = 10_000
"""The flips that are drawn where there are more, the observed signs among them."""


@dataclass(frozen=True)
class Comparison:
    """The figures of a comparison. ``delta`` is candidate minus incumbent.

    ``n`` instances were compared of those that were ``planned``; fewer where the sweep was stopped early.
    The candidate won on ``wins`` of them and lost on ``losses``. ``p`` is the test's, to be at most ``level``.
    """

    incumbent: float
    candidate: float
    delta: float
    ci95: tuple[float, float]
    n: int
    planned: int
    wins: int
    losses: int
    p: float
    level: float

    @property
    def better(self) -> bool:
        return self.n == self.planned and self.delta > 0 and self.p <= self.level

    @property
    def report(self) -> str:
        """All that an improver is shown: one bit. Runs without a promotion then tell it nothing of the gate."""
        return "better" if self.better else "not shown to be better"

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not shown to be better``: for people."""
        return "worse" if not self.better and self.ci95[1] < 0 else self.report

    @property
    def why(self) -> str:
        """The verdict in a sentence, with its figures."""
        low, high = self.ci95
        change = f"gain {self.delta:+.4f} [{low:+.4f}, {high:+.4f}] over {self.n:,} instances"
        if self.n < self.planned:
            return (
                f"stopped after {self.n:,} of {self.planned:,} instances, {self.verdict}: {change}; "
                f"{counted(self.wins, self.losses)}, with next to no chance left"
            )
        p = f"p = {self.p:.2g}" if self.p >= 0.0001 else "p < 0.0001"
        return f"{self.verdict}: {change}; {counted(self.wins, self.losses)}, {p}, needed {self.level:.2g}"


def counted(wins: int, losses: int) -> str:
    """Wins and losses in words."""
    return f"{wins:,} {'win' if wins == 1 else 'wins'} to {losses:,} {'loss' if losses == 1 else 'losses'}"


def compare(
    incumbent: Sequence[float], candidate: Sequence[float], *, bounds: tuple[float, float] | None, level: float
) -> Comparison:
    """Compare rewards instance by instance; the first ones only where the candidate was stopped early."""
    steps = differences(incumbent, candidate, bounds)
    mean = normal([b - a for a, b in zip(incumbent, candidate, strict=False)])
    return Comparison(
        incumbent=fmean(incumbent[: mean.n]),
        candidate=fmean(candidate),
        delta=mean.value,
        ci95=mean.ci95,
        n=mean.n,
        planned=len(incumbent),
        wins=sum(step > 0 for step in steps),
        losses=sum(step < 0 for step in steps),
        p=p_value(steps, flips_for(level)),
        level=level,
    )


def differences(
    incumbent: Sequence[float], candidate: Sequence[float], bounds: tuple[float, float] | None
) -> list[int]:
    """The differences in grains of the range, in order. Without ``bounds`` only who wins each instance counts."""
    if not 0 < len(candidate) <= len(incumbent):
        raise ValueError("a paired comparison needs the same instances, at least one, on both sides")
    pairs = zip(incumbent, candidate, strict=False)
    if bounds is None:
        return [(b > a) - (b < a) for a, b in pairs]
    span = bounds[1] - bounds[0]
    return [round((b - a) / span / GRAIN) for a, b in pairs]


def p_value(steps: Iterable[int], flips: int = FLIPS) -> float:
    """The chance of a sum at least this large if each sign were as likely as its opposite; 1 unless it is above 0."""
    moved = [step for step in steps if step]
    total = sum(moved)
    if total <= 0:
        return 1.0
    if len({abs(step) for step in moved}) == 1:
        return sign_test(sum(step > 0 for step in moved), len(moved))
    if len(moved) <= EXHAUSTIVE:
        sums = _flipped(moved)
        return sum(each >= total for each in sums) / len(sums)
    return (1 + sum(each >= total for each in _drawn(moved, flips - 1))) / flips


def sign_test(wins: int, n: int) -> float:
    """P(Bin(n, 1/2) >= wins), computed in integers."""
    ways = total = 1
    for losses in range(n - wins):
        ways = ways * (n - losses) // (losses + 1)
        total += ways
    return total / (1 << n)


def flips_for(level: float) -> int:
    """The flips to draw, so that a candidate that wins nearly always can pass at this level."""
    return math.ceil(max(FLIPS, min(1_000_000, 10 / level))) if level > 0 else FLIPS


def _flipped(steps: Sequence[int]) -> list[int]:
    """The sums of all flips of a few differences."""
    sums = [0]
    for step in steps:
        sums = [*(each + step for each in sums), *(each - step for each in sums)]
    return sums


def _drawn(steps: Sequence[int], count: int) -> Iterator[int]:
    """The sums of random flips, the same each time: a byte draws eight signs at once."""
    random, tables = Random("gate"), [_flipped(steps[first : first + 8]) for first in range(0, len(steps), 8)]
    last = 8 - len(tables[-1]).bit_length() + 1
    for _ in range(count):
        signs = bytearray(random.randbytes(len(tables)))
        signs[-1] >>= last
        yield sum(map(getitem, tables, signs))


@dataclass(frozen=True)
class Levels:
    """The error levels of one run, handed out in the order of its comparisons.

    ``most`` is how often the run may ask, on ``instances``. So far ``gated`` comparisons were
    made, of which ``promotions`` passed, and their levels sum to ``used``.
    """

    most: int
    instances: int
    earned: float = EARNED
    gated: int = 0
    promotions: int = 0
    used: float = 0.0

    @property
    def left(self) -> float:
        return RUN_ERROR + self.earned * self.promotions - self.used

    def level(self, comparisons: int, hoped: int = 0) -> float:
        """The level of the comparison before which ``comparisons`` were possible; 0 where none is left.

        What is left is shared out among the comparisons that are still expected. No share is smaller than the least p
        of so few instances: there are fewer comparisons then. With ``hoped`` promotions more, for a look ahead.
        """
        remaining: float = self.left + self.earned * hoped
        expected = max(0, self.most - comparisons - 1) * (self.gated + 1.2) / (comparisons + 2)
        level = min(RUN_ERROR, remaining / (1 + expected))
        least = math.ldexp(1.0, -self.instances)
        if level >= least:
            return level
        shares = math.floor(remaining / least * (1 + 1e-9))
        return min(RUN_ERROR, remaining / shares) if shares else 0.0

    def after(self, level: float, promoted: bool) -> Levels:
        """The levels once a comparison had its own."""
        promotions = self.promotions + promoted
        return replace(self, gated=self.gated + 1, promotions=promotions, used=self.used + level)

    def to_json(self) -> dict[str, Any]:
        """The sums for reports."""
        earned = RUN_ERROR + self.earned * self.promotions
        return {"used": self.used, "earned": earned, "left": self.left, "promotions": self.promotions}

    def following(self, rows: Iterable[Mapping[str, Any]]) -> Levels:
        """The levels after the recorded verdicts."""
        levels = self
        for row in rows:
            if row["gate"] and "level" in row["gate"]:
                levels = levels.after(row["gate"]["level"], row["accepted"])
        return levels


def affordable(most: int, instances: int) -> int:
    """How many comparisons a run may make on so few instances before its first promotion."""
    return min(most, math.floor(math.ldexp(RUN_ERROR, min(instances, 60))))
