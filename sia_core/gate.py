"""The gate: a paired comparison of a candidate with the incumbent, which decides promotion.

Both agents face the same instances with the same seeds, so only the differences
d_i = candidate_i - incumbent_i count. The test bets against "the candidate is no
better": its wealth, the mean over stakes L of prod(1 + L d_i), is a test martingale
with expectation at most 1 if the mean difference is at most 0, whatever the
distribution of bounded differences and whenever one looks (Ville's inequality;
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2024). A candidate is promoted when its wealth has ever reached
1/alpha, in the order of the instances, which is random and the same for all; alpha
is a run's 5% shared out among all the candidates that it may test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.intervals import normal

RUN_ALPHA = 0.05
"""The chance that a run promotes even one candidate that is no better than its incumbent."""

STAKES = (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.9)


@dataclass(frozen=True)
class Comparison:
    """What the gate saw, and its verdict. ``delta`` is candidate minus incumbent, ``wealth`` the most on the way.

    ``n`` instances were compared of those that were ``planned``; fewer where the sweep was stopped early.
    """

    incumbent: float
    candidate: float
    delta: float
    ci95: tuple[float, float]
    n: int
    wealth: float
    threshold: float
    planned: int

    @property
    def better(self) -> bool:
        return self.wealth >= self.threshold and self.delta > 0 and self.n == self.planned

    @property
    def told(self) -> str:
        """All that an improver is told: one bit. Runs without a promotion then tell it nothing of the gate."""
        return "better" if self.better else "not shown to be better"

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not shown to be better``: for people."""
        return "worse" if not self.better and self.ci95[1] < 0 else self.told

    @property
    def why(self) -> str:
        """The verdict in a sentence, with its figures."""
        low, high = self.ci95
        seen = f"{self.delta:+.4f} [{low:+.4f}, {high:+.4f}] over {self.n:,} instances"
        odds = "over 1000" if self.wealth > 1000 else f"{self.wealth:.3g}"
        early = f"stopped after {self.n:,} of {self.planned:,} instances, " if self.n < self.planned else ""
        return f"{early}{self.verdict}: {seen}; odds at best {odds} to 1, promotion takes {self.threshold:.0f} to 1"


def compare(
    incumbent: Sequence[float],
    candidate: Sequence[float],
    *,
    bounds: tuple[float, float] | None,
    alpha: float,
) -> Comparison:
    """Compare rewards instance by instance; the first ones only where the candidate was stopped early."""
    seen = bets(incumbent, candidate, bounds)
    mean = normal([b - a for a, b in zip(incumbent, candidate, strict=False)])
    return Comparison(
        incumbent=fmean(incumbent[: mean.n]),
        candidate=fmean(candidate),
        delta=mean.value,
        ci95=mean.ci95,
        n=mean.n,
        wealth=betting_wealth(seen),
        threshold=1 / alpha,
        planned=len(incumbent),
    )


def bets(incumbent: Sequence[float], candidate: Sequence[float], bounds: tuple[float, float] | None) -> list[float]:
    """The differences in [-1, 1], in order. Without ``bounds`` only who wins each instance counts."""
    if not 0 < len(candidate) <= len(incumbent):
        raise ValueError("a paired comparison needs the same instances, at least one, on both sides")
    differences = [b - a for a, b in zip(incumbent, candidate, strict=False)]
    if bounds is None:
        return [float((d > 0) - (d < 0)) for d in differences]
    scale = bounds[1] - bounds[0]
    return [max(-1.0, min(1.0, d / scale)) for d in differences]


def betting_wealth(differences: Sequence[float]) -> float:
    """The most that the mean over the stakes of prod(1 + stake * d) ever is, in the order of d in [-1, 1].

    Never less than the 1 that it starts with; capped at 1e300.
    """
    logs, most = [0.0] * len(STAKES), 0.0
    for d in differences:
        if d:
            logs = [log + math.log1p(stake * d) for log, stake in zip(logs, STAKES, strict=True)]
            if d > 0:
                most = max(most, mixed(logs))
    return math.exp(min(690.0, most))


def log_wealth(differences: Sequence[float]) -> list[float]:
    """The logarithm of each stake's wealth after all of the differences."""
    moved = [d for d in differences if d]
    return [math.fsum(math.log1p(stake * d) for d in moved) for stake in STAKES]


def mixed(logs: Sequence[float]) -> float:
    """The logarithm of the mean of the stakes' wealth."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(each - top) for each in logs) / len(logs))
