"""A run as an improver may look at it: what its agents did on the search split, a check of a harness, and notices.

An improver that has a method ``equip(run)`` is given a :class:`RunView` before the run starts. It shows the search
split and the public files; of the gate verdicts only, as the evidence does, and of the sealed split nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from sia_core.decision import Change
from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.run.allowance import Allowance
from sia_core.run.budget import Budget, Cost
from sia_core.run.parts import Parts
from sia_core.run.plan import Samples
from sia_core.run.record import RunRecord, verified
from sia_core.run.rollouts import GivenUp, Sweep
from sia_core.types import Instance, Kind

CHECKED = 10
"""Search instances that a check of a harness runs."""

SHARE = 10
"""A check may use this part of the tokens that are left."""


@runtime_checkable
class Equipped(Protocol):
    """An improver that takes more than evidence, such as one that asks a language model."""

    def check(self) -> None:
        """Raise UsageError where it cannot work, such as without a key; called before anything is made or spent."""

    def equip(self, run: RunView) -> None:
        """Called once, before ``draft``."""


@dataclass(frozen=True)
class Checked:
    """A harness's ``rollouts`` on a few search instances; ``stopped`` says why not on all, if so.

    ``short`` says that it was for want of tokens, which is no fault of the harness.
    """

    rollouts: Sequence[Rollout]
    stopped: str = ""
    short: bool = False


def equip(parts: Parts, samples: Samples) -> None:
    """Hand the run's improver its view, if it takes one."""
    if isinstance(parts.improver, Equipped):
        parts.improver.equip(RunView(parts, samples))


class RunView:
    """One run. Its methods give the same when the run is resumed, as they rest on what is recorded.

    Whatever an improver spends goes through ``ledger`` and ``budget``. ``failure`` is a failure's reward.
    """

    def __init__(self, parts: Parts, samples: Samples) -> None:
        self._parts, self._samples = parts, samples
        self.ledger, self.budget, self.trees = parts.ledger, parts.budget, parts.trees
        self.sample, self.evaluations = samples.search, samples.evaluations
        self.limits, self.metric, self.job = parts.task.limits, parts.task.metric, parts.rollouts.job
        self.kind: Kind = parts.task.kind
        self.failure = self.metric.reward(parts.task.failure_reward)
        self._record = RunRecord(parts.ledger)
        self._checking: dict[str, Lock] = {}

    def paid_from(self, budget: Budget) -> RunView:
        """The same view, whose checks are paid from another budget."""
        view = copy(self)
        view.budget = budget
        return view

    def notice(self, text: str) -> None:
        """Send an event to the run's observers."""
        self._parts.emit("model.notice", text=text)

    @property
    def public(self) -> Path:
        """The folder that harnesses read."""
        return self._parts.task.public_dir(("public",))

    def labelled(self) -> Path:
        """A folder with the search cases and their labels, as far as the task shows them."""
        return self._parts.task.public_dir(("search",))

    @cached_property
    def instances(self) -> Mapping[str, Instance]:
        """The search instances by id."""
        return {each.id: each for each in self._parts.task.instances("search")}

    def objection(self, decision: Change) -> str:
        """Why a decision would be refused whatever its parent is; empty if it would not."""
        lever = self._parts.levers.get(decision.lever)
        return lever.objection(decision) if lever else ""

    def rollouts(self, agent: str) -> list[Rollout]:
        """An agent's rollouts on the search sample, with their turns."""
        return self._record.rollouts("search", agent)

    def rewards(self, agent: str) -> dict[str, float]:
        """An agent's rewards on the search sample, by instance."""
        return {each.instance: each.reward for each in self.rollouts(agent)}

    def check(self, tree: HarnessTree, adapter: str | None, chosen: Sequence[str] = ()) -> Checked:
        """Run a harness in the sandbox on ``chosen`` search instances, or a few; BudgetExhausted where none fits."""
        parts = self._parts
        name = parts.trees.put(tree)
        instances = tuple(chosen) or self._samples.search[:CHECKED]
        agent = f"{name[:12]}-{(adapter or 'base')[:12]}"
        if chosen:
            agent += f"-{hashlib.sha256(' '.join(chosen).encode()).hexdigest()[:8]}"
        evaluations = self._samples.evaluations
        sweep = Sweep("check", agent, name, "search", instances, hasty=True, adapter=adapter, once=True)
        sweep = replace(sweep, evaluations=evaluations)
        drafting = self._record.draft is None
        look = self._samples.look(parts.levers.values()) if drafting else Cost()  # the first agent's
        reserved = (Cost(len(instances), len(instances) * (1 + evaluations)) + look).kinds
        self.budget.reserve(**reserved)
        allowance = Allowance(self.budget.left("tokens") / SHARE)
        rollouts: list[Rollout] = []
        stopped, short = "", False
        try:
            with self._checking.setdefault(agent, Lock()):  # the second to check it finds the record of the first
                rollouts += parts.rollouts.run(sweep, allowance)
        except GivenUp as error:
            rollouts += error.rollouts
            stopped, short = str(error), error.short
        finally:
            spent = {"rollouts": len(rollouts), "verifications": verified(rollouts), "tokens": allowance.spent}
            self.budget.settle(reserved, spent)
        return Checked(rollouts, stopped, short)

    def decided(self, generation: int, candidate: int) -> dict[str, Any] | None:
        """An earlier decision as it was typed, with its diff; None where there was none."""
        changes = [each for each in self._record.decisions(generation) if each["lever"] != "stop"]
        if not 0 <= candidate < len(changes):
            return None
        return {**changes[candidate], "diff": self._record.diff(generation, candidate)}
