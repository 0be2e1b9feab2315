"""Tasks of kind ``discover``, whose result is the best answer: the answers of a run, and which one it is.

A rollout is an episode of search: its harness proposes answers, may have a few of them evaluated, and returns the best.
Agents are compared by what they return, at equal evaluations. The answers that were returned are the run's archive;
rollouts on search and in training start from one of them, chosen by PUCT.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

from sia_core.errors import LedgerError, excerpt
from sia_core.evidence import Rollout
from sia_core.types import Discovers, Json, Task

C = 1.0
"""The published weight of exploration."""


@dataclass(frozen=True)
class Node:
    """A member of the archive. ``reward`` is finite; ``visits`` counts the rollouts that started from it.

    A ``parent`` that is not in the archive counts as none. A node is not its own ancestor.
    """

    id: str
    parent: str | None
    reward: float
    visits: int = 0


def scores(nodes: Sequence[Node], c: float = C) -> dict[str, float]:
    """The score of each node, in units of the reward."""
    if not nodes:
        return {}
    best, expanded = _best(nodes), _expanded(nodes)
    rewards = [node.reward for node in nodes]
    # Where all are alike any scale gives the same order; with none, what was never tried would not come first.
    scale = max(rewards) - min(rewards) or 1.0
    prior = _prior(nodes)
    root = math.sqrt(1 + sum(node.visits for node in nodes))
    return {node.id: best[node.id] + c * scale * prior[node.id] * root / (1 + expanded[node.id]) for node in nodes}


def choose(nodes: Sequence[Node], count: int, c: float = C) -> list[Node]:
    """The ``count`` nodes to go on from, the same one perhaps several times; none where the archive is empty.

    Each choice counts as an expansion for the next. Of equal scores the smallest id comes first.
    """
    by_id = {node.id: node for node in nodes}
    now = dict(by_id)
    picks: list[Node] = []
    for _ in range(count if nodes else 0):
        scored = scores(list(now.values()), c)
        name = min(scored, key=lambda each: (-scored[each], each))
        now[name] = replace(now[name], visits=now[name].visits + 1)
        picks.append(by_id[name])
    return picks


def _best(nodes: Sequence[Node]) -> dict[str, float]:
    """The best reward of a direct child by node; its own where it has none."""
    children: dict[str, list[float]] = {}
    for node in nodes:
        if node.parent is not None:
            children.setdefault(node.parent, []).append(node.reward)
    return {node.id: max(children.get(node.id, [node.reward])) for node in nodes}


def _expanded(nodes: Sequence[Node]) -> dict[str, int]:
    """The expansions of each node and of all that descends from it."""
    parents = {node.id: node.parent for node in nodes}
    counts = dict.fromkeys(parents, 0)
    for node in nodes:
        at: str | None = node.id
        while at in counts:
            counts[at] += node.visits
            at = parents[at]
    return counts


def _prior(nodes: Sequence[Node]) -> dict[str, float]:
    """Linear in the rank of the reward, the best first; of equal rewards the smallest id."""
    ranked = sorted(nodes, key=lambda node: (-node.reward, node.id))
    total = len(nodes) * (len(nodes) + 1) / 2
    return {node.id: (len(nodes) - rank) / total for rank, node in enumerate(ranked)}


ROUNDS = ((8, 1), (4, 2), (2, 4))
"""Rounds of the final comparison: how many answers are compared, on how many further gate instances.

The better half goes on: sequential halving (Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed
bandits", ICML 2013). Many of the best were lucky when they were found, and one instance tells most of them.
"""


def evaluations_of(task: Task) -> int:
    """How many answers a rollout may have evaluated; 0 where the task is one to solve."""
    return task.evaluations if task.kind == "discover" and isinstance(task, Discovers) else 0


@dataclass(frozen=True)
class ValidAnswer:
    """A valid answer, JSON text, with what it earned, which agent found it, and the answer that it started from."""

    answer: str
    reward: float
    feedback: str
    agent: str
    start: str | None

    @property
    def id(self) -> str:
        return hashlib.sha256(self.answer.encode()).hexdigest()[:12]

    @property
    def as_start(self) -> Json:
        """As shown to a rollout that starts from it."""
        return {"id": self.id, "answer": json.loads(self.answer), "reward": self.reward, "feedback": self.feedback}


class Answers:
    """The valid answers of a run, where they are ``wanted``. What a rollout may start from was found on search."""

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._rolled: dict[str, tuple[Sequence[Rollout], Sequence[Rollout]]] = {}
        self._searched: dict[str, ValidAnswer] = {}
        self._all: list[ValidAnswer] = []
        self._visits: Counter[str] = Counter()

    def keep(self, agent: str, searched: Sequence[Rollout], gated: Sequence[Rollout]) -> None:
        """Set aside what an agent returned, until it enters."""
        if self._active:
            self._rolled[agent] = searched, gated

    def enter(self, agent: str) -> None:
        """From now on its answers count. Agents enter in the order of their candidates, whichever was the fastest."""
        searched, gated = self._rolled.pop(agent, ((), ()))
        self._visits.update(each.start for each in searched if each.start)
        for rollouts, starts in ((searched, True), (gated, False)):
            for answer in found_in(agent, rollouts):
                self._all.append(answer)
                previous = self._searched.get(answer.id)
                if starts and (previous is None or answer.reward > previous.reward):
                    # Its line is that of the first time: found again from what it led to, it would be its own ancestor.
                    self._searched[answer.id] = replace(answer, start=(previous or answer).start)

    def starts(self, count: int) -> tuple[Json, ...]:
        """The starts of ``count`` rollouts; empty before the first answer."""
        nodes = [Node(name, each.start, each.reward, self._visits[name]) for name, each in self._searched.items()]
        return tuple(self._searched[node.id].as_start for node in choose(nodes, count))

    def finalists(self, agents: Collection[str] | None = None) -> list[ValidAnswer]:
        """The best answers, each once, of some agents or of all."""
        best: dict[str, ValidAnswer] = {}
        for each in sorted(self._all, key=lambda each: (-each.reward, each.id)):
            if agents is None or each.agent in agents:
                best.setdefault(each.id, each)
        return list(best.values())[: ROUNDS[0][0]]


def found_in(agent: str, rollouts: Sequence[Rollout]) -> list[ValidAnswer]:
    """The valid answers among rollouts."""
    return [
        ValidAnswer(each.answer, each.reward, excerpt(each.feedback), agent, each.start)
        for each in rollouts
        if each.outcome == "ok" and each.answer is not None
    ]


class Verified(NamedTuple):
    """The verifier's word on an answer, on one instance, with what it measured beside the reward."""

    reward: float
    valid: bool
    feedback: str = ""
    metrics: Mapping[str, float] = {}

    @classmethod
    def of(cls, rows: Any, count: int) -> list[Verified]:
        """The recorded scores of one answer on ``count`` instances. LedgerError for what no run records."""
        try:
            verified = [cls(*row) for _, row in zip(range(count), rows, strict=True)]
        except (TypeError, ValueError) as error:
            raise LedgerError(f"scores of an answer are recorded which no run records: {error}") from None
        for each in verified:  # a score has the bounds that it has in a rollout
            Rollout.from_json(Rollout("", "ok", each.reward, feedback=each.feedback, metrics=each.metrics).to_json())
        return verified


def measured(verified: Sequence[Verified]) -> dict[str, float]:
    """The metrics of an answer: each one's mean over the instances on which the answer was valid."""
    metrics: dict[str, list[float]] = {}
    for each in verified:
        for name, value in each.metrics.items() if each.valid else ():
            metrics.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in metrics.items()}


def rounds(gate: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """How many finalists each round has, and the instances that are new in it; none without any."""
    start = 0
    for most, cases in ROUNDS:
        if instances := gate[start : start + cases]:
            yield most, instances
        start += cases


def best_of(
    finalists: Sequence[ValidAnswer],
    gate: Sequence[str],
    score: Callable[[ValidAnswer, Sequence[str]], Sequence[float]],
    champion: tuple[ValidAnswer, list[float]] | None = None,
) -> tuple[ValidAnswer, list[float]]:
    """The finalist that earns most over the gate instances of its rounds, and what it earned there.

    ``score`` says what an answer earns on some instances. Of equals the first one is taken. ``champion`` won before,
    over the same instances: it is taken unless another earns more, as all finalists may be such that were lucky.
    """
    earned: dict[str, list[float]] = {each.id: [] for each in finalists}
    for most, instances in rounds(gate):
        finalists = _best_first(finalists, earned)[:most]
        for each in finalists:
            earned[each.id] += score(each, instances)
    best = _best_first(finalists, earned)[0]
    if champion and fmean(champion[1]) >= fmean(earned[best.id]):
        return champion
    return best, earned[best.id]


def _best_first(finalists: Sequence[ValidAnswer], earned: Mapping[str, Sequence[float]]) -> list[ValidAnswer]:
    return sorted(finalists, key=lambda each: -fmean(earned[each.id] or (0.0,)))
