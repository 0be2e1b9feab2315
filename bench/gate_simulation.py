"""Whole runs under a gate, many at once: false promotions, adversaries, gains, and single comparisons.

Levels, screen, looks and test are those of ``sia_core``, here for many runs at once;
``tests/unit/test_gate_simulation.py`` holds the two against each other. Everything is seeded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sia_cli.betting import STAKES
from sia_core.run.gate import EXHAUSTIVE, FLIPS, GRAIN, RUN_ERROR, sign_test
from sia_core.run.gatekeeper import FUTILE, OPTIMISM
from sia_core.run.rollouts import BATCH

Array = NDArray[np.float64]
Rewards = NDArray[np.float32]
Whole = NDArray[np.int64]
Mask = NDArray[np.bool_]

AT_ONCE = 250
CLEAR = 1.2
"""Sums of fewer standard deviations pass at no level, so their p need not be known."""

_GRID = np.linspace(-9, 9, 18_001)
_CDF = np.array([NormalDist().cdf(each) for each in _GRID])


# The gate, for many candidates at once: one a row.


def grains(differences: Rewards | Array) -> Array:
    """Differences in whole grains of the range, which is 1."""
    return np.round(differences.astype(np.float64) / GRAIN)


def p_values(steps: Array) -> Array:
    """:func:`sia_core.run.gate.p_value` of each row; 1 where nothing could pass."""
    sums, sizes, moved = steps.sum(axis=1), np.abs(steps), np.count_nonzero(steps, axis=1)
    alike = sizes.sum(axis=1) == sizes.max(axis=1) * moved
    p = np.ones(len(steps))
    for row in np.flatnonzero((sums > 0) & alike):
        p[row] = _sign_test(int(np.count_nonzero(steps[row] > 0)), int(moved[row]))
    spread = np.sqrt((steps * steps).sum(axis=1))
    rest = np.flatnonzero((sums > CLEAR * spread) & ~alike)
    if len(rest):
        signs = flips(steps.shape[1])
        p[rest] = ((steps[rest] @ signs) >= sums[rest, None]).mean(axis=1)
    return p


_sign_test = cache(sign_test)


@cache
def flips(n: int) -> Array:
    """Signs of n differences, one pattern a column: all patterns, or the observed one and drawn ones."""
    if n <= EXHAUSTIVE:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n))).T
    signs = np.random.default_rng([4, n]).choice([1.0, -1.0], (n, FLIPS))
    signs[:, 0] = 1.0
    return signs


def stops(steps: Array, level: Array) -> Whole:
    """After how many instances each sweep is ended; all of them where it is not. ``steps`` are in [-1, 1]."""
    rows, planned = steps.shape
    ended = np.full(rows, planned)
    bar = np.array([-NormalDist().inv_cdf(min(0.5, each)) if each > 0 else math.inf for each in level])
    for count in itertools.takewhile(lambda count: count < planned, (BATCH << look for look in itertools.count())):
        total, n, remaining = steps[:, :count].sum(axis=1), count + 2, planned - count
        largest = np.abs(steps[:, :count]).max(axis=1)
        unseen = 2 * np.where(largest > 0, largest, 1) ** 2
        mean, square = total / n, ((steps[:, :count] ** 2).sum(axis=1) + unseen) / n
        gain = np.minimum(1, mean + OPTIMISM * np.sqrt(np.maximum(0, square - mean**2) / n))
        spread = np.maximum(1e-9, np.sqrt(remaining * np.maximum(0, square - gain**2)))
        hopeless = cdf((total + remaining * gain - bar * np.sqrt(planned * square)) / spread) < FUTILE
        ended = np.where((ended == planned) & hopeless, count, ended)
    return ended


def cdf(values: Array) -> Array:
    return np.interp(values, _GRID, _CDF)


@dataclass
class Ledgers:
    """:class:`sia_core.run.gate.Levels` of many runs."""

    runs: int
    most: int
    instances: int
    earned: float
    gated: Array = field(init=False)
    promotions: Array = field(init=False)
    used: Array = field(init=False)

    def __post_init__(self) -> None:
        self.gated, self.promotions, self.used = np.zeros((3, self.runs))

    def level(self, index: int, hoped: int = 0) -> Array:
        remaining = RUN_ERROR + self.earned * (self.promotions + hoped) - self.used
        level = np.minimum(
            RUN_ERROR, remaining / (1 + max(0, self.most - index - 1) * (self.gated + 1.2) / (index + 2))
        )
        least = math.ldexp(1.0, -min(self.instances, 60))
        shares = np.floor(remaining / least * (1 + 1e-9))
        few = np.where(shares > 0, np.minimum(RUN_ERROR, remaining / np.maximum(1, shares)), 0.0)
        return np.where(level >= least, level, few)

    def book(self, level: Array, compared: Mask, promoted: Mask) -> None:
        self.used += np.where(compared, level, 0.0)
        self.gated += compared
        self.promotions += promoted


# Other gates, to compare with.


def bets(steps: Array, most: int) -> Mask:
    """The gate of before: whether the wealth of bets with 1/``most`` of the error ever sufficed."""
    logs = np.stack([np.log1p(stake * steps).cumsum(axis=1) for stake in STAKES])
    top = logs.max(axis=0)
    wealth = top + np.log(np.exp(logs - top).mean(axis=0))
    enough: Mask = wealth.max(axis=1) >= math.log(most / RUN_ERROR)
    return enough & (steps.sum(axis=1) > 0)


def clears_an_error(steps: Array) -> Mask:
    """Whether the mean is above 0 by one standard error."""
    clears: Mask = steps.mean(axis=1) > np.maximum(1e-12, steps.std(axis=1) / math.sqrt(steps.shape[1]))
    return clears


@dataclass(frozen=True)
class Gate:
    """A gate: the exact one with what a promotion earns, or another by ``kind``."""

    name: str
    earned: float = 0.05
    kind: str = "exact"


EXACT = Gate("earned=0.05 (default)")
GATES = (
    Gate("betting, as before", kind="betting"),
    Gate("earned=0 (strict)", 0.0),
    EXACT,
    Gate("earned=0.2 (bold)", 0.2),
    Gate("better by one standard error", kind="one error"),
)


# Worlds: rewards on gate and search, side by side, and what an edit makes of its parent's.


class World(Protocol):
    name: str

    def first(self, random: np.random.Generator, shape: tuple[int, int]) -> tuple[Rewards, Array]:
        """Rewards and true means of first agents."""

    def edit(self, random: np.random.Generator, at: int, parents: Rewards, means: Array) -> tuple[Rewards, Array]:
        """Rewards and true means of the candidates of number ``at``."""


@dataclass(frozen=True)
class Null:
    """Edits without effect: each instance's reward is drawn anew with chance ``anew``, else the parent's."""

    name: str
    draw: Callable[[np.random.Generator, tuple[int, int]], Array]
    anew: float

    def first(self, random: np.random.Generator, shape: tuple[int, int]) -> tuple[Rewards, Array]:
        return self.draw(random, shape).astype(np.float32), np.zeros(shape[0])

    def edit(self, random: np.random.Generator, at: int, parents: Rewards, means: Array) -> tuple[Rewards, Array]:
        fresh, _ = self.first(random, (len(parents), parents.shape[1]))
        return np.where(random.random(parents.shape, np.float32) < self.anew, fresh, parents), means


NULLS = (
    Null("right or wrong, 20% differ", lambda random, shape: (random.random(shape) < 0.5).astype(float), 0.4),
    Null("right or wrong, 2% differ", lambda random, shape: (random.random(shape) < 0.9).astype(float), 0.11),
    Null("continuous", lambda random, shape: random.random(shape), 1.0),
    Null("skewed", lambda random, shape: random.beta(0.2, 2.0, shape), 0.5),
    Null("rare large rewards", lambda random, shape: np.where(random.random(shape) < 0.05, 1.0, 0.45), 1.0),
    Null("four grades", lambda random, shape: random.choice([0.0, 0.25, 0.5, 1.0], shape, p=[0.4, 0.2, 0.1, 0.3]), 0.3),
)


@dataclass(frozen=True)
class Edits:
    """Right or wrong, and edits of which a share of ``good`` gain something between two ``gains``.

    Of the others half change nothing on the whole, and half lose up to ``losses``. The first
    ``wins`` candidates of a run gain ``win``. An edit changes a share ``differ`` of the instances.
    """

    name: str
    good: float
    gains: tuple[float, float] = (0.005, 0.03)
    losses: float = 0.03
    wins: Callable[[int], bool] = lambda at: at == 0
    win: float = 0.3
    differ: float = 0.06
    begin: float = 0.35

    def first(self, random: np.random.Generator, shape: tuple[int, int]) -> tuple[Rewards, Array]:
        return (random.random(shape) < self.begin).astype(np.float32), np.full(shape[0], self.begin)

    def edit(self, random: np.random.Generator, at: int, parents: Rewards, means: Array) -> tuple[Rewards, Array]:
        runs = len(parents)
        loss = np.where(random.random(runs) < 0.5, 0.0, -random.uniform(0, self.losses, runs))
        gain = np.where(random.random(runs) < self.good, random.uniform(*self.gains, runs), loss)
        gain = np.full(runs, self.win) if self.wins(at) else gain
        differ = np.maximum(self.differ, np.abs(gain))
        up, down = (differ + gain) / 2 / (1 - means), (differ - gain) / 2 / means
        changes = random.random(parents.shape, np.float32) < np.where(parents > 0, down[:, None], up[:, None])
        return np.where(changes, 1 - parents, parents), means + gain


@dataclass(frozen=True)
class Resubmits(Edits):
    """An improver that submits a lucky candidate again and again: all but 1 in 200 of its answers are the same."""

    def edit(self, random: np.random.Generator, at: int, parents: Rewards, means: Array) -> tuple[Rewards, Array]:
        if at % 6 == 0:
            return super().edit(random, at, parents, means)
        again = random.random(parents.shape, np.float32) < 0.005
        fresh = (random.random(parents.shape) < means[:, None]).astype(np.float32)
        return np.where(again, fresh, parents), means


WHOLE = (
    Edits("35% good, +0.5 to +3", 0.35),
    Edits("15% good, +0.5 to +3", 0.15),
    Edits("35% good, +0.3 to +1.2", 0.35, (0.003, 0.012)),
)

ADVERSARIES = (
    Edits("splits a sure gain to farm levels", 0.0, losses=0.0, wins=lambda at: at % 5 == 0, win=0.05, differ=0.1),
    Edits("the same, and slightly worse between", 0.0, losses=0.004, wins=lambda at: at % 5 == 0, win=0.05, differ=0.1),
    Resubmits("submits the best on search again", 0.0, losses=0.0, differ=0.1),
    Edits("never any gain, slightly worse", 0.0, losses=0.004, wins=lambda at: False),
)


# Whole runs.


RULES = ("the incumbent", "best on search", "the newest", "by the gate's bits")
"""Whom an improver goes on from. The last one stays where it won and goes elsewhere after a refusal."""


@dataclass(frozen=True)
class Setup:
    """How long a run is and how large its samples are."""

    generations: int = 8
    candidates: int = 2
    gate: int = 1314
    search: int = 256

    @property
    def most(self) -> int:
        return self.generations * self.candidates


@dataclass(frozen=True)
class Outcome:
    """Counts over some runs: promotions, and those of agents that were no better or worse; the rest is per run."""

    promotions: Array
    false: Array
    worse: Array
    gain: Array
    rollouts: Array
    levels: Array

    def __add__(self, other: Outcome) -> Outcome:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Outcome(*(np.concatenate(pair) for pair in pairs))


def simulate(world: World, rule: str, runs: int, setup: Setup = Setup(), gate: Gate = EXACT) -> Outcome:
    """Runs in a world, part by part."""
    sizes = [AT_ONCE] * (runs // AT_ONCE) + [runs % AT_ONCE] * (runs % AT_ONCE > 0)
    parts = [play(world, rule, size, setup, gate, np.random.default_rng([1, at])) for at, size in enumerate(sizes)]
    return sum(parts[1:], parts[0])


def play(world: World, rule: str, runs: int, setup: Setup, gate: Gate, random: np.random.Generator) -> Outcome:
    """Some runs, all at once, as :class:`sia_core.run.loop.Loop` does each."""
    rows, shape = np.arange(runs), (runs, setup.gate + setup.search)
    agents, means = np.zeros((setup.most + 1, *shape), np.float32), np.zeros((setup.most + 1, runs))
    agents[0], means[0] = world.first(random, shape)
    ledgers = Ledgers(runs, setup.most, setup.gate, gate.earned)
    best, refused = np.zeros(runs, np.int64), np.zeros((setup.most + 1, runs), bool)
    false, worse = np.zeros((2, runs))
    rollouts = np.full(runs, float(sum(shape[1:])))
    screens = gate.kind == "exact" and setup.search >= 64
    for generation in range(setup.generations):
        begun, first = generation * setup.candidates, best.copy()
        parent = chosen(rule, agents[: begun + 1, :, setup.gate :], best, refused[: begun + 1])
        places = range(setup.candidates)
        looks = [ledgers.level(begun + place, hoped=place) for place in places]
        for place in places:
            index = begun + place + 1
            agents[index], means[index] = world.edit(random, index - 1, agents[parent, rows], means[parent, rows])
        for place in places:
            index = begun + place + 1
            change = agents[index] - agents[first, rows]
            goes = np.full(runs, not screens) | (grains(change[:, setup.gate :]).sum(axis=1) >= 0)
            count = np.full(runs, setup.gate)
            if gate.kind == "exact":
                count = stops(change[:, : setup.gate].astype(float), looks[place])
            whole = goes & (count == setup.gate)
            level = ledgers.level(begun + place)
            promoted = np.zeros(runs, bool)
            steps = (agents[index] - agents[best, rows])[whole, : setup.gate]
            promoted[whole] = passes(gate.kind, steps, level[whole], setup.most)
            ledgers.book(level, goes, promoted)
            rollouts += setup.search + np.where(goes, count, 0)
            false += promoted & (means[index] <= means[best, rows] + 1e-9)
            worse += promoted & (means[index] < means[best, rows] - 1e-9)
            refused[index] = ~promoted
            best = np.where(promoted, index, best)
    return Outcome(ledgers.promotions, false, worse, means[best, rows], rollouts, ledgers.used)


def passes(kind: str, steps: Rewards, level: Array, most: int) -> Mask:
    if kind == "betting":
        return bets(steps.astype(float), most)
    if kind == "one error":
        return clears_an_error(steps.astype(float))
    return np.asarray(p_values(grains(steps)) <= level)


def chosen(rule: str, searched: Rewards, best: Whole, refused: Mask) -> Whole:
    """The parent of each run's next candidates, as its place among its agents."""
    if rule == "the incumbent":
        return best
    if rule == "the newest":
        return np.full(len(best), len(searched) - 1)
    means = searched.mean(axis=2, dtype=np.float64)
    if rule == "by the gate's bits":
        rest = np.where(refused | (np.arange(len(means))[:, None] == best), -1.0, means)
        rest[0] = means[0]
        return np.where(refused[-1], rest.argmax(axis=0), best)
    return means.argmax(axis=0)


# One comparison.


def differing(gain: float, n: int, rows: int, random: np.random.Generator, share: float = 0.06) -> Array:
    """Differences of agents that differ on a share of the instances, by the whole range, with this gain."""
    share = max(share, abs(gain))
    drawn = random.random((rows, n), np.float32)
    return (drawn < (share + gain) / 2).astype(float) - (drawn > 1 - (share - gain) / 2)


def power(gain: float, n: int, level: float, rows: int, random: np.random.Generator) -> tuple[float, float, float]:
    """The share promoted by the test alone and with looks, and the share of the sweeps that looks save."""
    steps = differing(gain, n, rows, random)
    count = stops(steps, np.full(rows, level))
    promoted = p_values(steps) <= level
    return float(promoted.mean()), float((promoted & (count == n)).mean()), float(1 - count.mean() / n)


def real_gain(n: int, level: float, rows: int) -> float:
    """The least gain of real-valued rewards that passes with 80%, in standard deviations of the differences."""
    low, high = 0.0, 4.0
    noise = np.random.default_rng([5, n]).normal(0, 1, (rows, n))
    for _ in range(8):
        gain = (low + high) / 2
        passed = (p_values(grains((noise + gain) / 16)) <= level).mean()
        low, high = (gain, high) if passed < 0.8 else (low, gain)
    return high


def rare_failures(n: int, level: float, rows: int) -> float:
    """The share that passes at a level of candidates that gain a little and rarely lose much, on the whole nothing."""
    drawn = np.random.default_rng([6, n]).random((rows, n))
    return float((p_values(grains(np.where(drawn < 0.04, -0.48, 0.02))) <= level).mean())


LONG = Setup(generations=25, gate=300)
"""50 candidates."""

SMALL = (6, 14, 40)


def promoting(world: World, rule: str, runs: int, setup: Setup) -> int:
    """In how many runs anything was promoted."""
    return int((simulate(world, rule, runs, setup).promotions > 0).sum())
