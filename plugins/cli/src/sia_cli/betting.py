"""The gate of runs that were recorded before the exact test: a bet against "the candidate is no better".

Nothing decides by it any more; a replay compares such a run's verdicts with it. The wealth of the
bets, the mean over stakes L of prod(1 + L d_i), is a test martingale, and a candidate was promoted
where it had ever reached 1/alpha (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 2024). Early looks ended sweeps as the exact gate's do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

from sia_core.evidence import AgentView, Rollout
from sia_core.run.gate import RUN_ERROR
from sia_core.run.gatekeeper import Gatekeeper, means, optimistic, within
from sia_core.run.intervals import normal
from sia_core.run.plan import Plan, Samples
from sia_core.run.power import DISCORDANCE, POWER, repeated
from sia_core.types import Task

STAKES = (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.9)
FUTILE = 0.02

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Bet:
    """The figures of a comparison. ``wealth`` is the most on the way, ``threshold`` what promotion took."""

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
    def report(self) -> str:
        return "better" if self.better else "not shown to be better"

    @property
    def why(self) -> str:
        low, high = self.ci95
        change = f"{self.delta:+.4f} [{low:+.4f}, {high:+.4f}] over {self.n:,} instances"
        odds = "over 1000" if self.wealth > 1000 else f"{self.wealth:.3g}"
        early = f"stopped after {self.n:,} of {self.planned:,} instances, " if self.n < self.planned else ""
        verdict = "worse" if not self.better and high < 0 else self.report
        return f"{early}{verdict}: {change}; odds at best {odds} to 1, promotion takes {self.threshold:.0f} to 1"


class BettingGatekeeper(Gatekeeper):
    """The gate along a run, as it was: every comparison with the same share of the run's error, and no screen."""

    def __init__(self, plan: Plan, samples: Samples, task: Task) -> None:
        self._alpha, self._samples = RUN_ERROR / plan.comparisons, samples
        self._bounds, self._span = task.metric.bounds, task.metric.span
        self._discordance = DISCORDANCE
        self._rewards: tuple[float, ...] = ()

    def first(self, agent: AgentView, searched: Sequence[float], rewards: Sequence[float]) -> None:
        if (repeats := self._samples.repeats) > 1:
            self._discordance = repeated(within(rewards, repeats) / self._span**2, repeats)

    def begin(self, generation: int, incumbent: str, rewards: Sequence[float]) -> str:
        self._rewards = tuple(rewards)
        return ""

    def screens_out(self, searched: Sequence[float]) -> str:
        return ""

    def watch(self, index: int) -> Any:
        return BettingWatch(self._rewards, self._bounds, self._alpha, self._samples.repeats)

    def judge(self, index: int, incumbent: Sequence[float], rewards: Sequence[float]) -> Any:
        return compare(incumbent, rewards, bounds=self._bounds, alpha=self._alpha)

    def book(self, row: Mapping[str, Any], searched: Sequence[float]) -> None:
        pass

    def sees(self) -> dict[str, Any]:
        n = len(self._samples.gate)
        gain = _smallest_gain(n, self._alpha, self._discordance)
        more = max(0, _needed_for(gain / 2, self._alpha, self._discordance) - n)
        wins = self._bounds is None
        return {"n": n, "alpha": self._alpha, "smallest_gain": gain * self._span, "wins": wins, "to_halve": more}

    def smallest_gain(self, comparisons: int) -> float:
        return float(self.sees()["smallest_gain"])


@dataclass(frozen=True)
class BettingWatch:
    """Looks at the gate sweep of one candidate."""

    incumbent: Sequence[float]
    bounds: tuple[float, float] | None
    alpha: float
    repeats: int

    def __call__(self, rollouts: Sequence[Rollout]) -> bool:
        rewards = means([each.reward for each in rollouts], self.repeats)
        return hopeless(bets(self.incumbent, rewards, self.bounds), len(self.incumbent), self.alpha)


def hopeless(steps: Sequence[float], planned: int, alpha: float) -> bool:
    """Whether promotion has become improbable after the first bets of ``planned``."""
    if wealth(steps) >= 1 / alpha:
        return False
    gain, square = optimistic(steps)
    return chance(planned - len(steps), max(0.0, gain), alpha, square, log_wealth(steps)) < FUTILE


def compare(
    incumbent: Sequence[float], candidate: Sequence[float], *, bounds: tuple[float, float] | None, alpha: float
) -> Bet:
    """Compare rewards instance by instance; the first ones only where the candidate was stopped early."""
    steps = bets(incumbent, candidate, bounds)
    mean = normal([b - a for a, b in zip(incumbent, candidate, strict=False)])
    means_ = fmean(incumbent[: mean.n]), fmean(candidate)
    return Bet(*means_, mean.value, mean.ci95, mean.n, wealth(steps), 1 / alpha, len(incumbent))


def bets(incumbent: Sequence[float], candidate: Sequence[float], bounds: tuple[float, float] | None) -> list[float]:
    """The differences in [-1, 1], in order. Without ``bounds`` only who wins each instance counts."""
    differences = [b - a for a, b in zip(incumbent, candidate, strict=False)]
    if bounds is None:
        return [float((d > 0) - (d < 0)) for d in differences]
    scale = bounds[1] - bounds[0]
    return [max(-1.0, min(1.0, d / scale)) for d in differences]


def wealth(differences: Sequence[float]) -> float:
    """The most that the mean over the stakes of prod(1 + stake * d) ever is, capped at 1e300."""
    logs, most = [0.0] * len(STAKES), 0.0
    for d in differences:
        if d:
            logs = [log + math.log1p(stake * d) for log, stake in zip(logs, STAKES, strict=True)]
            if d > 0:
                top = max(logs)
                most = max(most, top + math.log(math.fsum(math.exp(each - top) for each in logs) / len(logs)))
    return math.exp(min(690.0, most))


def log_wealth(differences: Sequence[float]) -> list[float]:
    """The logarithm of each stake's wealth after all of the differences."""
    moved = [d for d in differences if d]
    return [math.fsum(math.log1p(stake * d) for d in moved) for stake in STAKES]


def chance(
    n: int, gain: float, alpha: float, discordance: float, logs: Sequence[float] = (0.0,) * len(STAKES)
) -> float:
    """The chance of promotion within ``n`` more instances, where the stakes' log-wealth is ``logs`` by now."""
    wins, losses = (max(discordance, gain) + gain) / 2, max(0.0, discordance - gain) / 2
    threshold, best = math.log(len(STAKES) / alpha), 0.0
    for stake, log in zip(STAKES, logs, strict=True):
        rise, fall = math.log1p(stake), math.log1p(-stake)
        mean = wins * rise + losses * fall
        spread = math.sqrt(max(0.0, n * (wins * rise**2 + losses * fall**2 - mean**2)))
        best = max(best, _reaches(threshold - log, n * mean, spread or 1e-9))
    return best


def _reaches(distance: float, drift: float, spread: float) -> float:
    """The chance that a Brownian motion reaches ``distance`` in a time over which it drifts and spreads so far."""
    if distance <= 0:
        return 1.0
    ends_above = _NORMAL.cdf((drift - distance) / spread)
    exponent = 2 * drift * distance / spread**2
    if exponent > 600:  # then what came and went again is next to nothing
        return ends_above
    return min(1.0, ends_above + math.exp(exponent) * _NORMAL.cdf((-drift - distance) / spread))


def _smallest_gain(n: int, alpha: float, discordance: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(40):
        gain = (low + high) / 2
        low, high = (gain, high) if chance(n, gain, alpha, discordance) < POWER else (low, gain)
    return high


def _needed_for(gain: float, alpha: float, discordance: float) -> int:
    low, high = 0, 1
    while high < 10**9 and chance(high, gain, alpha, discordance) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        n = (low + high) // 2
        low, high = (n, high) if chance(n, gain, alpha, discordance) < POWER else (low, n)
    return high
