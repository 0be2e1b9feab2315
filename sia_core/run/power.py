"""The gate's power: the chance that a gain is promoted, the least gain that is, and the instances it takes.

Shares are of the reward's range. ``discordance`` is the share of instances on which two
agents differ or, for real-valued rewards, the mean square of their differences.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Any

from sia_core.run.gate import Levels, affordable, sign_test

DISCORDANCE = 0.2
"""The discordance of two agents before any is known."""

SHOWN = (0.06, 0.10, 0.20)
"""The discordances for which a run says beforehand what its gate sees."""

POWER = 0.8

FEW = 30
"""Up to this many differing instances the sign test is exact; beyond, its normal approximation."""

_NORMAL = NormalDist()
_MOST = 10**9
"""Instances beyond which a gain counts as never seen."""


@cache
def smallest_gain(n: int, level: float, discordance: float = DISCORDANCE, power: float = POWER) -> float:
    """The least true gain that ``n`` instances promote with this power; 1 where no gain is seen that well."""
    low, high = 0.0, 1.0
    for _ in range(20):
        gain = (low + high) / 2
        low, high = (gain, high) if chance(n, gain, level, discordance) < power else (low, gain)
    return high


@cache
def needed_for(gain: float, level: float, discordance: float = DISCORDANCE, power: float = POWER) -> int:
    """The instances that promote a true gain with this power."""
    low, high = 0, 1
    while high < _MOST and chance(high, gain, level, discordance) < power:
        low, high = high, 2 * high
    while high - low > 1:
        n = (low + high) // 2
        low, high = (n, high) if chance(n, gain, level, discordance) < power else (low, n)
    return high


def to_halve(n: int, level: float, discordance: float = DISCORDANCE) -> int:
    """How many more instances would halve the smallest gain of ``n``."""
    return max(0, needed_for(smallest_gain(n, level, discordance) / 2, level, discordance) - n)


def sees(levels: Levels, bounds: tuple[float, float] | None, discordance: float = DISCORDANCE) -> dict[str, Any]:
    """The reach of the gate beforehand: the smallest gains, in units of the reward, now and after a promotion.

    Where nothing bounds the reward the gate counts ``wins``: the gain is then by how much the
    share of instances that are won exceeds the share that are lost.
    """
    n, span = levels.instances, bounds[1] - bounds[0] if bounds else 1.0
    now, later = levels.level(0), levels.level(0, hoped=1)
    return {
        "n": n,
        "level": now,
        "comparisons": affordable(levels.most, n),
        "smallest_gain": smallest_gain(n, now, discordance) * span,
        "discordance": discordance,
        "gains": [
            {
                "differ": share,
                "now": smallest_gain(n, now, share) * span,
                "after": smallest_gain(n, later, share) * span,
            }
            for share in SHOWN
        ],
        "wins": bounds is None,
        "to_halve": to_halve(n, now, discordance),
    }


def chance(n: int, gain: float, level: float, discordance: float) -> float:
    """The chance that a true gain is promoted on ``n`` instances."""
    discordance = max(discordance, gain)
    if level <= 0 or gain <= 0 or not n:
        return 0.0
    if n * discordance > FEW:
        threshold = 1 - _NORMAL.inv_cdf(level) * math.sqrt(n * discordance)
        spread = math.sqrt(n * max(0.0, discordance - gain * gain)) or 1e-9
        return _NORMAL.cdf((n * gain - threshold) / spread)
    won, most = (1 + gain / discordance) / 2, n * discordance + 6 * math.sqrt(n * discordance) + 3
    return math.fsum(
        _binomial(differing, n, discordance) * _at_least(_wins_needed(differing, level), differing, won)
        for differing in range(min(n, round(most)) + 1)
    )


@cache
def _wins_needed(n: int, level: float) -> int:
    """The least wins of ``n`` that pass at a level; n + 1 where not even all do."""
    return next((wins for wins in range((n + 1) // 2, n + 1) if sign_test(wins, n) <= level), n + 1)


def _at_least(wins: int, n: int, share: float) -> float:
    return math.fsum(_binomial(each, n, share) for each in range(wins, n + 1))


def _binomial(k: int, n: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(k == n * share)
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def repeated(within: float, repeats: int) -> float:
    """The discordance that is left of the usual one when rewards are means over ``repeats``.

    ``within`` is the variance of one agent's reward on one instance. Two agents' noise
    of that kind is part of how they differ, and the only part that repeats make smaller.
    """
    return max(DISCORDANCE, 2 * within) - 2 * within * (1 - 1 / repeats)
