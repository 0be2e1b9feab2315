"""One candidate of a generation: a decision, the agent that it makes of its parent, and what came of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sia_core.decision import Change
from sia_core.errors import UsageError, excerpt
from sia_core.evidence import AgentView, Rollout
from sia_core.harness import HarnessTree
from sia_core.run.levers import PullPlan, PullResult
from sia_core.run.record import JUDGED, OUT_OF_BOUNDS
from sia_core.types import Split

LABELLED: tuple[Split, ...] = ("public", "search", "gate")


@dataclass(frozen=True)
class Candidate:
    """A decision, its parent, and what came of it: gate rewards, or why it was refused, or failed.

    ``plan`` and ``result`` are its lever's. ``rewards`` are one an instance, of the first ones only where its sweep was
    stopped early; ``saved`` is what that gave back to the budget. ``searched`` are its rewards on the search sample,
    and ``screened`` says why it did not go to the gate after those. ``tokens`` are set aside for it.
    """

    index: int
    decision: Change
    parent: AgentView
    plan: PullPlan = field(default_factory=PullPlan)
    result: PullResult = field(default_factory=PullResult)
    agent: AgentView | None = None
    refused: str = ""
    out_of_budget: bool = False
    failed: str = ""
    searched: tuple[float, ...] = ()
    screened: str = ""
    rewards: tuple[float, ...] = ()
    saved: Mapping[str, float] = field(default_factory=dict)
    tokens: float = math.inf


def make_agent(
    tree: HarnessTree, parent: AgentView | None, change: str | None, adapter: str | None = None
) -> AgentView:
    """An agent around a harness and an adapter; its id derives from what it is made of."""
    changes = (*(parent.edits if parent else ()), *([change] if change else ()))
    whole = hashlib.sha256(f"{tree.digest} {adapter}".encode()).hexdigest() if adapter else tree.digest
    return AgentView(whole[:12], tree.digest, adapter, parent.id if parent else None, tree, changes)


def fault_of(smoke: Sequence[Rollout]) -> str:
    """Why an agent does not even run, or an empty string."""
    if any(each.outcome in JUDGED for each in smoke):
        return ""
    return f"{smoke[0].outcome}: {smoke[0].message or smoke[0].log}".strip(": ")


def within_bounds(rollouts: list[Rollout]) -> list[Rollout]:
    """The first agent's rollouts; UsageError where one earned what the metric's bounds do not hold.

    Later such a rollout is a failure. Here nothing is lost yet, and most often it is the bounds that are wrong.
    """
    if wrong := [each for each in rollouts if each.outcome == OUT_OF_BOUNDS]:
        raise UsageError(f"{wrong[0].message}\nThen start a new run.")
    return rollouts


def unrunnable(fault: str) -> UsageError:
    """The first harness does not run; with what to do where that is known."""
    from sia_core.advice import advice  # only where something is wrong

    first, *lines = advice("rollout", fault) or [excerpt(fault)]
    return UsageError("\n".join([f"the first harness does not run: {first}", *lines, _ANEW]))


_ANEW = "Mend it, and start a new run."
