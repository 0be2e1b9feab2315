"""Which algorithm suits which rewards: the selection table as data, and what it says of given statistics.

The table is read from the top. Each row is a case: its algorithm is called for where
all of its conditions on :class:`sia_core.evidence.RewardStats` hold. An algorithm with
several cases has several rows. It is a prior that a person, an improver and the
ledger can read, not a law: what an update really earned is the gate's to say.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from sia_core.evidence import RewardStats

SPARSE = 0.02
"""Below this density most groups of usual sizes hold no reward at all, and the policy gradient is about zero."""

FEW = 8
"""From this many instances on a critic can generalise from one to another."""

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "is": operator.eq}


@dataclass(frozen=True)
class Condition:
    """A comparison of one statistic, by its name in RewardStats, with a bound; ``is`` is for yes and no.

    A statistic that is None, not known, fulfils no condition.
    """

    statistic: str
    comparison: Literal["<", "<=", ">", ">=", "is"]
    bound: float

    def holds(self, stats: RewardStats) -> bool:
        value = getattr(stats, self.statistic)
        return value is not None and bool(_COMPARISONS[self.comparison](value, self.bound))

    def __str__(self) -> str:
        if self.comparison == "is":
            return _fact(self.statistic, self.bound)
        return f"{self.statistic} {self.comparison} {self.bound:g}"

    def seen(self, stats: RewardStats) -> str:
        """The condition beside the value that met it or did not."""
        value = getattr(stats, self.statistic)
        if value is None:
            return f"{self.statistic} is not known"
        if self.comparison == "is":
            return _fact(self.statistic, value)
        return f"{self.statistic} {value:.3g} {'' if self.holds(stats) else 'not '}{self.comparison} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """A case: the algorithm that is called for where all of ``when`` hold, and why."""

    algorithm: str
    when: tuple[Condition, ...]
    why: str

    def missed(self, stats: RewardStats) -> list[Condition]:
        return [condition for condition in self.when if not condition.holds(stats)]


@dataclass(frozen=True)
class Choice:
    """An algorithm that the table calls for, why, and the conditions that held, each with its value."""

    algorithm: str
    why: str
    held: tuple[str, ...]

    def __str__(self) -> str:
        conditions = f"{', '.join(self.held)}: " if self.held else ""
        return f"{self.algorithm} ({conditions}{self.why})"


_SIGNAL = Condition("density", ">=", SPARSE)

TABLE = (
    Row(
        "dpo",
        (Condition("ordinal", "is", True),),
        "the verifier ranks outputs, and its numbers mean little",
    ),
    Row(
        "best-of-n",
        (Condition("density", "<", SPARSE),),
        "a cold start: rewards are so sparse that the policy gradient is about zero, and imitation is left",
    ),
    Row(
        "ppo",
        (_SIGNAL, Condition("stepwise", "is", True)),
        "rewards come step by step, and a critic spreads them over the steps",
    ),
    Row(
        "entropic",
        (_SIGNAL, Condition("binary", "is", False), Condition("skew", ">", 1.0)),
        "rewards are skewed to the right: few good rollouts, each worth a lot",
    ),
    Row(
        "grpo",
        (_SIGNAL, Condition("instances", "<", FEW)),
        "one or few instances, rewarded at the end: a critic has nothing to generalise over, the group is the baseline",
    ),
    Row(
        "reinforce",
        (Condition("density", ">=", 0.5), Condition("level", ">=", 0.5), Condition("kl_to_base", "<=", 0.1)),
        "rewards are dense and the base itself is capable: the risk is to lose that, so stay near it",
    ),
    Row(
        "ppo",
        (_SIGNAL, Condition("instances", ">=", FEW)),
        "a scalar reward, dense enough, over many instances: a critic generalises, clipping keeps it stable",
    ),
    Row(
        "grpo",
        (_SIGNAL,),
        "there is a signal, and it asks least of an engine: neither a critic nor a reference",
    ),
)


def recommend(stats: RewardStats, available: Collection[str]) -> list[Choice]:
    """The algorithms out of ``available`` that the table calls for, best first; then those that it does not know."""
    choices: dict[str, Choice] = {}
    for row in TABLE:
        if row.algorithm in available and not row.missed(stats):
            conditions = tuple(condition.seen(stats) for condition in row.when)
            choices.setdefault(row.algorithm, Choice(row.algorithm, row.why, conditions))
    unknown = sorted(set(available) - {row.algorithm for row in TABLE})
    return [*choices.values(), *(Choice(name, "no row of the table speaks of it", ()) for name in unknown)]


def verdict(stats: RewardStats, available: Collection[str]) -> str:
    """The table in a sentence: its first choice, and the first one on offer where that choice is not."""
    first = recommend(stats, [row.algorithm for row in TABLE])[0]
    offered = recommend(stats, available)
    if first in offered:
        return str(first)
    instead = str(offered[0]) if offered else "nothing on offer"
    return f"{first}, which is not on offer; next {instead}"


def as_text(stats: RewardStats | None = None) -> str:
    """The table for people and prompts, in Markdown; with ``stats``, also which rows hold, or which conditions fail."""
    lines = ["| algorithm | when | why |", "| --- | --- | --- |"]
    lines += [f"| {row.algorithm} | {', '.join(map(str, row.when))} | {row.why} |" for row in TABLE]
    if stats is None:
        return "\n".join(lines)
    missed = ["; ".join(condition.seen(stats) for condition in row.missed(stats)) for row in TABLE]
    ends = ["here |", "--- |", *(f"{each or 'holds'} |" for each in missed)]
    return "\n".join(f"{line} {end}" for line, end in zip(lines, ends, strict=True))


def _fact(name: str, value: float) -> str:
    return name if value else f"not {name}"
