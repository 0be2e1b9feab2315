"""Which differences between arms are more than chance: over cases, and over seeds.

Two questions, and two answers. *Over cases*: would the agents that these very runs found
differ on other cases too? Cases are the sample, and one that several seeds saw is one
case. *Over seeds*: would the same comparison, run anew, come out alike? Runs are the
sample, of which there are few, so its intervals are wide and its tests weak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist, fmean, stdev

from scipy.stats import t as student

ALPHA = 0.05
MOST_FLIPS = 16
"""Seeds up to which all patterns of signs are counted; beyond, Student's t stands for them."""

Scores = Mapping[int, Mapping[str, float]]
"""An arm's sealed scores: by seed, by case."""


@dataclass(frozen=True)
class Estimate:
    """A mean's 95% interval and the two-sided p of no difference, from ``n`` values; None where n is too small."""

    n: int
    ci95: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms, such as one less another, on the cases and seeds that they share."""

    name: str
    value: float
    cases: Estimate
    seeds: Estimate
    by_seed: tuple[float, ...]


def contrast(name: str, weights: Mapping[str, float], arms: Mapping[str, Scores]) -> Contrast | None:
    """The contrast; None where the arms share no seed with a case in common. Every seed counts the same."""
    shared: dict[int, dict[str, float]] = {}
    for seed in sorted(set.intersection(*(set(arms[arm]) for arm in weights))):
        cases = set.intersection(*(set(arms[arm][seed]) for arm in weights))
        if cases:
            shared[seed] = {
                case: math.fsum(weight * arms[arm][seed][case] for arm, weight in weights.items())
                for case in sorted(cases)
            }
    if not shared:
        return None
    by_seed = tuple(fmean(scores.values()) for scores in shared.values())
    return Contrast(name, fmean(by_seed), over_cases(shared), over_seeds(by_seed), by_seed)


def over_cases(shared: Mapping[int, Mapping[str, float]]) -> Estimate:
    """The mean over seeds of the mean over cases, cases being the sample: one that several seeds saw is one word.

    The variance is that of a mean of clusters (Liang and Zeger 1986), a case a cluster.
    """
    value = fmean(fmean(scores.values()) for scores in shared.values())
    pulls: dict[str, float] = {}
    for scores in shared.values():
        mean = fmean(scores.values())
        for case, score in scores.items():
            pulls[case] = pulls.get(case, 0.0) + (score - mean) / (len(scores) * len(shared))
    n = len(pulls)
    if n < 2:
        return Estimate(n, None, None)
    error = math.sqrt(math.fsum(pull**2 for pull in pulls.values()) * n / (n - 1))
    half = NormalDist().inv_cdf(1 - ALPHA / 2) * error
    p = 2 * (1 - NormalDist().cdf(abs(value) / error)) if error else float(value == 0)
    return Estimate(n, (value - half, value + half), p)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds, seeds being the sample: Student's interval, and the exact test that flips signs."""
    n = len(values)
    if n < 2:
        return Estimate(n, None, None)
    mean, error = fmean(values), stdev(values) / math.sqrt(n)
    half = float(student.ppf(1 - ALPHA / 2, n - 1)) * error
    if n <= MOST_FLIPS:
        p = flipped(values)
    else:
        p = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Estimate(n, (mean - half, mean + half), p)


def flipped(values: Sequence[float]) -> float:
    """The share of all patterns of signs whose sum is at least as far from zero (Fisher 1935)."""
    reached = abs(math.fsum(values))
    patterns = [abs(math.fsum(sign * value for sign, value in zip(signs, values, strict=True)))
                for signs in product((1, -1), repeat=len(values))]  # fmt: skip
    return fmean(pattern >= reached - 1e-12 * (1 + reached) for pattern in patterns)


def least_p(seeds: int) -> float:
    """The least p that a test over this number of seeds can reach."""
    return 2.0 ** (1 - min(seeds, 64))


def holm(values: Sequence[float]) -> list[float]:
    """P-values, each so that the chance of any false alarm among them all is kept (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, worst = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = worst
    return adjusted
