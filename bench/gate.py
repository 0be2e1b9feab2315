"""What the gate promises, by simulation: false promotions over whole runs, power, and what early looks save.

    python bench/gate.py [--runs 1000] [--write docs/gate.md]

Prints the tables of docs/gate.md, or writes them into it. The wealth, the looks and the end for
futility are those of ``sia_core``, here for many runs at once; ``tests/unit/test_sequential.py``
holds the two against each other. Everything is seeded: the same command gives the same tables.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sia_core.gate import RUN_ALPHA, STAKES
from sia_core.intervals import estimate
from sia_core.power import repeated, smallest_gain, to_halve
from sia_core.rollout import BATCH
from sia_core.sequential import FUTILE, OPTIMISM

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

CANDIDATES, GATE, SEARCH = 50, 500, 256
AT_ONCE = 250
GAINS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10)
SIZES = (300, 900, 1314)
BEGIN, END = "<!-- tables: python bench/gate.py --write docs/gate.md -->", "<!-- end of tables -->"

_GRID = np.linspace(-9, 9, 18_001)
_CDF = np.array([NormalDist().cdf(each) for each in _GRID])


# The gate, for many candidates at once: one a row, in the order of the instances.


def peaks(bets: Array) -> Array:
    """The logarithm of the largest wealth up to each instance."""
    logs = np.stack([np.log1p(stake * bets).cumsum(axis=1) for stake in STAKES])
    top = logs.max(axis=0)
    wealth = top + np.log(np.exp(logs - top).mean(axis=0))
    return np.maximum.accumulate(np.maximum(wealth, 0.0), axis=1)


def finals(bets: Array) -> Array:
    """The logarithm of the wealth after all instances, for a gate that looks once."""
    logs = np.stack([np.log1p(stake * bets).sum(axis=1) for stake in STAKES])
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))


def stops(bets: Array, alpha: float, batch: int = BATCH) -> NDArray[np.int64]:
    """After how many instances each sweep is ended for futility; all of them where it is not.

    The looks are after one batch, two, four, eight and so on.
    """
    rows, planned = bets.shape
    ended = np.full(rows, planned)
    reached = peaks(bets) >= math.log(1 / alpha)
    logs = np.stack([np.log1p(stake * bets).cumsum(axis=1) for stake in STAKES])
    sums, squares = bets.cumsum(axis=1), (bets**2).cumsum(axis=1)
    for seen in itertools.takewhile(lambda seen: seen < planned, (batch << look for look in itertools.count())):
        n = seen + 2
        mean, square = sums[:, seen - 1] / n, (squares[:, seen - 1] + 2) / n
        gain = np.clip(mean + OPTIMISM * np.sqrt(np.maximum(0, square - mean**2) / n), 0, 1)
        hopeless = chances(planned - seen, gain, alpha, square, logs[:, :, seen - 1]) < FUTILE
        ended = np.where((ended == planned) & ~reached[:, seen - 1] & hopeless, seen, ended)
    return ended


def chances(n: int, gain: Array, alpha: float, square: Array, logs: Array) -> Array:
    """:func:`sia_core.power.chance` of many."""
    wins, losses = (np.maximum(square, gain) + gain) / 2, np.maximum(0, square - gain) / 2
    best = np.zeros(len(gain))
    for stake, log in zip(STAKES, logs, strict=True):
        won, lost = math.log1p(stake), math.log1p(-stake)
        mean = wins * won + losses * lost
        spread = np.maximum(1e-9, np.sqrt(np.maximum(0, n * (wins * won**2 + losses * lost**2 - mean**2))))
        distance, drift = math.log(len(STAKES) / alpha) - log, n * mean
        exponent = 2 * drift * distance / spread**2
        passed = np.where(exponent > 600, 0, np.exp(np.minimum(exponent, 600)) * cdf((-drift - distance) / spread))
        best = np.maximum(best, np.where(distance <= 0, 1, cdf((drift - distance) / spread) + passed))
    return np.minimum(best, 1)


def cdf(values: Array) -> Array:
    return np.interp(values, _GRID, _CDF)


# Rewards and searches.


@dataclass(frozen=True)
class Kind:
    """Rewards of one kind. An edit draws each instance's reward anew with chance ``anew``, else keeps its parent's."""

    name: str
    draw: Draw
    anew: float


def lopsided(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.where(random.random(shape) < 0.05, 1.0, 0.45)


KINDS = (
    Kind("right or wrong, 20% differ", lambda random, shape: (random.random(shape) < 0.5).astype(float), 0.4),
    Kind("continuous", lambda random, shape: random.random(shape), 1.0),
    Kind("heavy ties, 2% differ", lambda random, shape: (random.random(shape) < 0.9).astype(float), 0.11),
    Kind("skewed", lambda random, shape: random.beta(0.2, 2.0, shape), 0.5),
    Kind("rare large gains", lopsided, 1.0),
)

SEARCHES = ("the incumbent", "best on search", "told better or worse", "best on the gate")
"""Whom an improver goes on from. The third was told more than one bit by the gate, the last its figures."""


def false_promotions(kind: Kind, search: str, runs: int, *, looks: bool = True, real: float = 0.0) -> int:
    """In how many runs an agent was promoted that is no better."""
    return sum(
        int(run(kind, search, part, np.random.default_rng([1, at]), looks=looks, real=real).sum())
        for at, part in enumerate(parts(runs))
    )


def parts(runs: int) -> Iterator[int]:
    yield from [AT_ONCE] * (runs // AT_ONCE)
    if runs % AT_ONCE:
        yield runs % AT_ONCE


def run(
    kind: Kind, search: str, runs: int, random: np.random.Generator, *, looks: bool, real: float = 0.0
) -> NDArray[np.bool_]:
    """Whether each of some runs ever promoted an agent that is no better than the incumbent of that moment.

    A share ``real`` of the edits is an improvement: it solves a tenth of what is left to its
    parent. All other edits have no effect: their agent's rewards are of its parent's distribution.
    """
    alpha, rows = RUN_ALPHA / CANDIDATES, np.arange(runs)
    shape = (runs, GATE + SEARCH)
    agents, solved = np.zeros((CANDIDATES + 1, *shape)), np.zeros((CANDIDATES + 1, runs))
    agents[0] = kind.draw(random, shape)
    told_worse = np.zeros((CANDIDATES + 1, runs), dtype=bool)
    best, wrong = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=bool)
    for index in range(1, CANDIDATES + 1):
        parent = chosen(search, agents[:index], told_worse[:index], best)
        more = np.where(random.random(runs) < real, 0.1, 0.0)
        fresh = np.where(random.random(shape) < solved[parent, rows, None], 1.0, kind.draw(random, shape))
        kept = np.where(random.random(shape) < kind.anew, fresh, agents[parent, rows])
        agents[index] = np.where(random.random(shape) < more[:, None], 1.0, kept)
        solved[index] = solved[parent, rows] + more * (1 - solved[parent, rows])
        bets = agents[index, :, :GATE] - agents[best, rows, :GATE]
        wealth = peaks(bets)[:, -1] if looks else finals(bets)
        promoted = (wealth >= math.log(1 / alpha)) & (bets.mean(axis=1) > 0)
        wrong |= promoted & (solved[index] <= solved[best, rows])
        told_worse[index] = bets.mean(axis=1) < -1.96 * bets.std(axis=1) / math.sqrt(GATE)
        best = np.where(promoted, index, best)
    return wrong


def chosen(search: str, agents: Array, worse: NDArray[np.bool_], best: NDArray[np.int64]) -> NDArray[np.int64]:
    """The parent of each run's next candidate, as its place among its agents."""
    if search == "the incumbent":
        return best
    if search == "best on the gate":
        return agents[:, :, :GATE].mean(axis=2).argmax(axis=0)
    means = agents[:, :, GATE:].mean(axis=2)
    if search == "told better or worse":  # the newest that was not called worse: what a hill climber does
        return len(worse) - 1 - (~worse)[::-1].argmax(axis=0)
    return means.argmax(axis=0)


def differing(gain: float, n: int, rows: int, random: np.random.Generator, share: float = 0.2) -> Array:
    """Bets on agents that differ on a share of the instances, by the whole range, with this gain."""
    share = max(share, abs(gain))
    return random.choice([-1.0, 0.0, 1.0], (rows, n), p=[(share - gain) / 2, 1 - share, (share + gain) / 2])


def power(gain: float, n: int, alpha: float, rows: int, random: np.random.Generator) -> tuple[float, float, float]:
    """The share promoted by one look at the end, by looks all the way, and with the end for futility too."""
    bets = differing(gain, n, rows, random)
    up = bets.mean(axis=1) > 0
    once = up & (finals(bets) >= math.log(1 / alpha))
    looked = up & (peaks(bets)[:, -1] >= math.log(1 / alpha))
    return float(once.mean()), float(looked.mean()), float((looked & (stops(bets, alpha) == n)).mean())


# Tables.


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate(count: int, runs: int) -> str:
    low, high = estimate([1.0] * count + [0.0] * (runs - count)).ci95
    return f"{count} ({low:.1%} to {high:.1%})"


def error_table(runs: int) -> str:
    header = ["rewards", *SEARCHES, "one look at the end, best on search"]
    rows = []
    for kind in KINDS:
        counts = [false_promotions(kind, search, runs) for search in SEARCHES]
        counts.append(false_promotions(kind, "best on search", runs, looks=False))
        rows.append([kind.name, *(rate(count, runs) for count in counts)])
    for kind in KINDS[:2]:
        counts = [false_promotions(kind, search, runs, real=0.1) for search in SEARCHES]
        counts.append(false_promotions(kind, "best on search", runs, looks=False, real=0.1))
        rows.append([f"{kind.name}, every tenth edit a real gain", *(rate(count, runs) for count in counts)])
    return table(header, rows)


def power_table(rows: int, comparisons: int = 16) -> str:
    alpha, lines = RUN_ALPHA / comparisons, []
    for gain in GAINS:
        line = [f"{gain:.0%}"]
        for n in SIZES:
            shares = power(gain, n, alpha, rows, np.random.default_rng([2, n, round(1000 * gain)]))
            line.append(" / ".join(f"{share:.1%}" for share in shares))
        lines.append(line)
    return table(["true gain", *(f"{n:,} instances" for n in SIZES)], lines)


def saving_table(rows: int, comparisons: int = 16) -> str:
    lines = []
    for gain in (-0.10, -0.05, -0.02, 0.0, 0.02, 0.05):
        line = [f"{gain:+.0%}"]
        for n in SIZES:
            bets = differing(gain, n, rows, np.random.default_rng([3, n, round(1000 * gain) + 1000]))
            line.append(f"{1 - stops(bets, RUN_ALPHA / comparisons).mean() / n:.0%}")
        lines.append(line)
    return table(["true gain", *(f"{n:,} instances" for n in SIZES)], lines)


def figure_table() -> str:
    rows = []
    for n in (100, *SIZES, 5000):
        alphas = [RUN_ALPHA / comparisons for comparisons in (1, 16, 50)]
        rows.append([f"{n:,}", *(f"{smallest_gain(n, a):.3f} ({to_halve(n, a):,} more halve it)" for a in alphas)])
    return table(["gate instances", "1 comparison", "16", "50"], rows)


def repeats_table() -> str:
    """What repeats buy, and what the same rollouts on so many times more instances would."""
    alpha, n, rows = RUN_ALPHA / 16, 300, []
    for within in (0.0, 0.02, 0.05, 0.1, 0.2):
        gains = [smallest_gain(n, alpha, repeated(within, repeats)) for repeats in (1, 2, 4, 8)]
        wider = smallest_gain(4 * n, alpha, repeated(within, 1))
        rows.append([f"{within:.2f}", *(f"{gain:.3f}" for gain in gains), f"{wider:.3f}"])
    return table(["variance within an instance", "1 time", "2", "4", "8", "1 time on 1,200 instances"], rows)


def tables(runs: int, rows: int) -> str:
    return f"""## False promotions

Of {runs:,} runs of {CANDIDATES} candidates without effect, on {GATE} gate and {SEARCH} search instances, those
that promoted any, with the 95% interval of their share. The columns say whom the improver goes on from.
In the last two rows every tenth edit solves a tenth of what its parent did not, and a promotion is false
where the agent is no better than the incumbent of that moment.

{error_table(runs)}

## Power

The share promoted at a true gain, of {rows:,} candidates each that differ on 20% of the instances, where a
run may compare 16: by one look at the end / looking all the way / with the end for futility too, which is
what the gate does.

{power_table(rows)}

## What early looks save

The share of a candidate's gate sweep that is not run, by its true gain ({rows:,} each, looks after {BATCH}
instances, twice as many, four times as many and so on).

{saving_table(rows)}

## The smallest gain

By the formula that `sia run` prints from, at 80% power and 20% of instances that differ, by how often a run
may ask the gate.

{figure_table()}

## Repeats

The smallest gain on 300 gate instances where each is asked several times, for rewards from 0 to 1.

{repeats_table()}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="whole runs for each rate of false promotion")
    parser.add_argument("--rows", type=int, default=2000, help="candidates for each power")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of this page")
    options = parser.parse_args()
    found = tables(options.runs, options.rows)
    if options.write is None:
        print(found)
        return
    page = options.write.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    options.write.write_text(f"{before}{BEGIN}\n\n{found}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
