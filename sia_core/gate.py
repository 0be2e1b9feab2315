"""The gate: a paired comparison of a candidate with the incumbent, which decides promotion.

Both agents face the same instances with the same seeds, so only the differences
d_i = candidate_i - incumbent_i count. The test bets against "the candidate is no
better": its wealth, the mean over stakes L of prod(1 + L d_i), is a test martingale
with expectation at most 1 if the mean difference is at most 0, whatever the
distribution of bounded differences and whenever one looks (Ville's inequality;
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2024). A candidate is promoted when its wealth reaches 1/alpha;
alpha is a run's 5% shared out among all the candidates that it may test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

RUN_ALPHA = 0.05
"""The chance that a run promotes even one candidate that is no better than its incumbent."""

_STAKES = (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.9)
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` instances with its 95% confidence interval."""

    value: float
    n: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """What the gate saw, and its verdict. ``delta`` is candidate minus incumbent."""

    incumbent: float
    candidate: float
    delta: float
    ci95: tuple[float, float]
    n: int
    wealth: float
    threshold: float

    @property
    def better(self) -> bool:
        return self.wealth >= self.threshold and self.delta > 0

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not shown to be better``: all that an improver is told."""
        if self.better:
            return "better"
        return "worse" if self.ci95[1] < 0 else "not shown to be better"

    @property
    def why(self) -> str:
        """The verdict in a sentence, with its figures."""
        low, high = self.ci95
        seen = f"{self.delta:+.4f} [{low:+.4f}, {high:+.4f}] over {self.n} instances"
        odds = "over 1000" if self.wealth > 1000 else f"{self.wealth:.3g}"
        return f"{self.verdict}: {seen}; odds {odds} to 1, promotion takes {self.threshold:.0f} to 1"


def compare(
    incumbent: Sequence[float],
    candidate: Sequence[float],
    *,
    bounds: tuple[float, float] | None,
    alpha: float,
) -> Comparison:
    """Compare rewards instance by instance. Without ``bounds`` only who wins each instance counts."""
    if len(incumbent) != len(candidate) or not incumbent:
        raise ValueError("a paired comparison needs the same instances, at least one, on both sides")
    differences = [b - a for a, b in zip(incumbent, candidate, strict=True)]
    if bounds is None:
        bets = [float((d > 0) - (d < 0)) for d in differences]
    else:
        scale = bounds[1] - bounds[0]
        bets = [max(-1.0, min(1.0, d / scale)) for d in differences]
    mean = _normal(differences)
    return Comparison(
        fmean(incumbent), fmean(candidate), mean.value, mean.ci95, len(bets), betting_wealth(bets), 1 / alpha
    )


def betting_wealth(differences: Sequence[float]) -> float:
    """Mean over the stakes of prod(1 + stake * d) for differences in [-1, 1]; capped at 1e300."""
    logs = [math.fsum(math.log1p(stake * d) for d in differences if d) for stake in _STAKES]
    top = max(logs)
    return math.exp(min(690.0, top + math.log(fmean(math.exp(each - top) for each in logs))))


def smallest_gain(n: int, alpha: float, discordance: float = 0.2, power: float = 0.8) -> float:
    """The least true gain (share of the reward's range) that n instances promote with this power.

    ``discordance`` is the share of instances on which the two agents differ, by the
    whole range, where the gain does not ask for more. 1 where no gain is seen that well.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        gain = (low + high) / 2
        low, high = (gain, high) if _power(n, gain, alpha, discordance) < power else (low, gain)
    return high


def _power(n: int, gain: float, alpha: float, discordance: float) -> float:
    """The chance of promotion: that of the best stake alone, whose log-wealth over n instances is about normal."""
    wins, losses = (max(discordance, gain) + gain) / 2, max(0.0, discordance - gain) / 2
    needed = math.log(len(_STAKES) / alpha)  # the other stakes earn nothing, at the least
    chances = []
    for stake in _STAKES:
        won, lost = math.log1p(stake), math.log1p(-stake)
        mean = wins * won + losses * lost
        deviation = math.sqrt(max(0.0, n * (wins * won**2 + losses * lost**2 - mean**2)))
        chances.append(NormalDist(n * mean, deviation or 1e-9).cdf(needed))
    return 1 - min(chances)


def estimate(values: Sequence[float]) -> Interval:
    """Mean with a 95% interval: Wilson's for values that are 0 or 1, the normal one otherwise."""
    n, mean = len(values), fmean(values)
    if all(value in (0.0, 1.0) for value in values):
        denominator = 1 + _Z95**2 / n
        centre = (mean + _Z95**2 / (2 * n)) / denominator
        half = _Z95 * math.sqrt(mean * (1 - mean) / n + _Z95**2 / (4 * n * n)) / denominator
        return Interval(mean, n, (max(0.0, centre - half), min(1.0, centre + half)))
    return _normal(values)


def _normal(values: Sequence[float]) -> Interval:
    n, mean = len(values), fmean(values)
    # One value says nothing of the spread. Its interval is wide, and finite since it is recorded as JSON.
    half = _Z95 * stdev(values) / math.sqrt(n) if n > 1 else 2 * max(1.0, abs(mean))
    return Interval(mean, n, (mean - half, mean + half))
