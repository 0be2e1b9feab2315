"""PUCT over an archive: what to go on from, weighing what it led to against how rarely it was tried.

After TTT-Discover (Yuksekgonul et al. 2026, arXiv 2601.16175, section 3.2 and its appendix)::

    score(s) = Q(s) + c * scale * P(s) * sqrt(1 + T) / (1 + n(s))

``Q`` is the best reward of a direct child, or the node's own where it has none: what counts
is the best that can be reached from it, not the mean. ``P`` falls linearly with the rank
of the node's own reward, and sums to one. ``scale`` is the range of rewards in the archive,
``n`` how often the node or one of its descendants was expanded, ``T`` all expansions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

C = 1.0
"""The published weight of exploration."""


@dataclass(frozen=True)
class Node:
    """A member of the archive. ``reward`` is finite; ``visits`` counts how often it was itself gone on from.

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
    best = _best(nodes)
    expanded = _expanded(nodes)
    rewards = [node.reward for node in nodes]
    # Where all are alike any scale gives the same order; with none, what was never tried would not come first.
    scale = max(rewards) - min(rewards) or 1.0
    prior = _prior(nodes)
    root = math.sqrt(1 + sum(node.visits for node in nodes))
    return {node.id: best[node.id] + c * scale * prior[node.id] * root / (1 + expanded[node.id]) for node in nodes}


def choose(nodes: Sequence[Node], count: int, c: float = C) -> list[Node]:
    """The ``count`` nodes to go on from, the same one perhaps several times; none where the archive is empty.

    They are chosen one after the other, and each choice counts as an expansion for the
    next. Of equal scores the smallest id comes first.
    """
    given = {node.id: node for node in nodes}
    now = dict(given)
    chosen: list[Node] = []
    for _ in range(count if nodes else 0):
        scored = scores(list(now.values()), c)
        name = min(scored, key=lambda each: (-scored[each], each))
        now[name] = replace(now[name], visits=now[name].visits + 1)
        chosen.append(given[name])
    return chosen


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
