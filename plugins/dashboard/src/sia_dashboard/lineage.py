"""The archive as a tree: which agent was made of which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Node:
    """An agent, or an attempt at one, in the order in which a nested list is written.

    ``opens`` says that its children follow, ``closes`` how many lists end after it.
    """

    label: str
    candidate: str
    agent: str
    harness: str
    verdict: str
    opens: bool
    closes: int


def lineage(first: str, harness: str, rows: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The tree below the first agent, depth first. What hangs on an agent that is not known is left out."""
    if not first:
        return []
    children: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        children.setdefault(row["parent"], []).append(row)
    nodes = [Node("first agent", "", first, harness, "", bool(children.get(first)), 0)]
    stack: list[Iterator[Mapping[str, Any]]] = [iter(children.get(first, []))]
    agents = {first}
    # By hand, as a line of a thousand generations is deeper than Python recurses.
    while stack:
        try:
            row = next(stack[-1])
        except StopIteration:
            stack.pop()
            if nodes[0].opens:
                nodes[-1] = replace(nodes[-1], closes=nodes[-1].closes + 1)
            continue
        agent = row["agent"] or ""
        below = children.get(agent, []) if agent not in agents else []
        agents.add(agent)
        name = f"{row['index']}.{row['candidate']}"
        rejection = (
            "screened out" if row.get("outcome") == "screened" else "rejected" if row["gate"] else "not compared"
        )
        verdict = "accepted" if row["accepted"] else rejection
        nodes.append(Node(f"{name} {row['name']}", name, agent, row["harness"] or "", verdict, bool(below), 0))
        if below:
            stack.append(iter(below))
    return nodes
