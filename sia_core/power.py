"""What the gate can see: the chance that a gain is promoted, the least gain that is, and the instances it takes.

All by one formula: the log-wealth of the best stake alone is about a Brownian motion
with drift, and promotion is its first passage (the other stakes earn nothing, at the
least). Shares are of the reward's range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from sia_core.gate import STAKES

DISCORDANCE = 0.2
"""The share of instances on which two agents are taken to differ, by the whole range, before that is known."""

POWER = 0.8

_NORMAL = NormalDist()
_MOST = 10**9
"""Instances beyond which a gain counts as never seen."""


def smallest_gain(n: int, alpha: float, discordance: float = DISCORDANCE, power: float = POWER) -> float:
    """The least true gain that ``n`` instances promote with this power; 1 where no gain is seen that well.

    ``discordance`` is the mean square of the differences, where the gain does not ask for more.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        gain = (low + high) / 2
        low, high = (gain, high) if chance(n, gain, alpha, discordance) < power else (low, gain)
    return high


def needed_for(gain: float, alpha: float, discordance: float = DISCORDANCE, power: float = POWER) -> int:
    """The instances that promote a true gain with this power."""
    low, high = 0, 1
    while high < _MOST and chance(high, gain, alpha, discordance) < power:
        low, high = high, 2 * high
    while high - low > 1:
        n = (low + high) // 2
        low, high = (n, high) if chance(n, gain, alpha, discordance) < power else (low, n)
    return high


def to_halve(n: int, alpha: float, discordance: float = DISCORDANCE) -> int:
    """How many more instances would halve the smallest gain of ``n``."""
    return max(0, needed_for(smallest_gain(n, alpha, discordance) / 2, alpha, discordance) - n)


def sees(n: int, alpha: float, bounds: tuple[float, float] | None, discordance: float = DISCORDANCE) -> dict[str, Any]:
    """What a run says of its gate: the smallest gain, in units of the reward, and what halves it.

    Where nothing bounds the reward the gate counts ``wins``: the gain is then by how much the
    share of instances that are won exceeds the share that are lost.
    """
    gain = smallest_gain(n, alpha, discordance) * (bounds[1] - bounds[0] if bounds else 1.0)
    halves = to_halve(n, alpha, discordance)
    return {"n": n, "alpha": alpha, "smallest_gain": gain, "wins": bounds is None, "to_halve": halves}


def chance(
    n: int, gain: float, alpha: float, discordance: float, logs: Sequence[float] = (0.0,) * len(STAKES)
) -> float:
    """The chance of promotion within ``n`` more instances, where the stakes' log-wealth is ``logs`` by now."""
    wins, losses = (max(discordance, gain) + gain) / 2, max(0.0, discordance - gain) / 2
    needed, best = math.log(len(STAKES) / alpha), 0.0
    for stake, log in zip(STAKES, logs, strict=True):
        won, lost = math.log1p(stake), math.log1p(-stake)
        mean = wins * won + losses * lost
        spread = math.sqrt(max(0.0, n * (wins * won**2 + losses * lost**2 - mean**2)))
        best = max(best, _reaches(needed - log, n * mean, spread or 1e-9))
    return best


def repeated(within: float, repeats: int) -> float:
    """The discordance that is left of the usual one when rewards are means over ``repeats``.

    ``within`` is the variance of one agent's reward on one instance. Two agents' noise
    of that kind is part of how they differ, and the only part that repeats make smaller.
    """
    return max(DISCORDANCE, 2 * within) - 2 * within * (1 - 1 / repeats)


def _reaches(distance: float, drift: float, spread: float) -> float:
    """The chance that a Brownian motion reaches ``distance`` in a time over which it drifts and spreads so far."""
    if distance <= 0:
        return 1.0
    ends_above = _NORMAL.cdf((drift - distance) / spread)
    exponent = 2 * drift * distance / spread**2
    if exponent > 600:  # then what came and went again is next to nothing
        return ends_above
    return min(1.0, ends_above + math.exp(exponent) * _NORMAL.cdf((-drift - distance) / spread))
