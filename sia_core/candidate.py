"""One candidate of a generation: from a decision to an agent that was rolled out on the gate split.

Whatever stands in the way (an edit out of bounds, a lever this run has not, no
budget, a harness that does not start) ends as ``refused``, with the reason, and
costs as little as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sia_core.budget import Budget
from sia_core.decision import RewriteHarness, UpdateWeights
from sia_core.errors import BudgetExhausted, HarnessError, SiaError
from sia_core.evidence import AgentView, Rollout, excerpt, summarise
from sia_core.harness import HarnessTree, apply_edits, unified_diff
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.rollout import GivenUp, Rollouts, Sweep
from sia_core.trees import Trees
from sia_core.types import Improver, Split, Task
from sia_core.verifying import INVALID

SMOKE_CASES = 2
LABELLED: tuple[Split, ...] = ("public", "search", "gate")


@dataclass(frozen=True)
class Parts:
    """What a run works with; made by :mod:`sia_core.running` from its configuration."""

    task: Task
    improver: Improver
    rollouts: Rollouts
    ledger: Ledger
    trees: Trees
    budget: Budget
    emit: Emitter


@dataclass(frozen=True)
class Samples:
    """The instances that each purpose takes, fixed for the run."""

    smoke: tuple[str, ...]
    search: tuple[str, ...]
    gate: tuple[str, ...]
    sealed: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A decision, its parent, and what came of it: gate rewards, or why it was refused, or failed."""

    index: int
    decision: RewriteHarness | UpdateWeights
    parent: AgentView
    agent: AgentView | None = None
    refused: str = ""
    out_of_budget: bool = False
    failed: str = ""
    rewards: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return self.decision.name if isinstance(self.decision, RewriteHarness) else self.decision.algorithm


def make_agent(tree: HarnessTree, parent: AgentView | None, edit: str | None) -> AgentView:
    """An agent around a harness; its id derives from what it is made of."""
    edits = (*(parent.edits if parent else ()), *([edit] if edit else ()))
    return AgentView(tree.digest[:12], tree.digest, None, parent.id if parent else None, tree, edits)


class Evaluator:
    """Rolls agents out and books it, and takes candidates from decision to gate rewards."""

    def __init__(self, parts: Parts, samples: Samples, levers: Sequence[str], limit: int) -> None:
        self._parts, self._samples, self._levers, self._limit = parts, samples, levers, limit
        self._cost = len(samples.smoke) + len(samples.search) + len(samples.gate)

    def plan(self, index: int, decision: RewriteHarness | UpdateWeights, parent: AgentView) -> Candidate:
        """The candidate with its agent, or the reason why nothing is spent on it."""
        candidate = Candidate(index, decision, parent)
        if index >= self._limit:
            return replace(candidate, refused=f"this run tries {self._limit} candidates a generation")
        if decision.lever not in self._levers:
            return replace(candidate, refused=f"the {decision.lever} lever is not among this run's levers")
        if isinstance(decision, UpdateWeights):
            return replace(candidate, refused="this run has no engine that can train")
        try:
            tree = apply_edits(parent.files, decision.edits)
        except HarnessError as error:
            return replace(candidate, refused=f"edit refused: {error}")
        return replace(candidate, agent=make_agent(tree, parent, decision.name))

    def afford(self, candidate: Candidate) -> Candidate:
        """Reserve all that the candidate may cost. In the order of decisions, so that a resumed run does the same."""
        if candidate.refused:
            return candidate
        try:
            self._reserve(self._cost)
        except BudgetExhausted as error:
            return replace(candidate, refused=str(error), out_of_budget=True)
        return candidate

    def attempt(self, generation: int, candidate: Candidate) -> Candidate:
        """Store the tree and its diff, smoke-run it, and roll it out on the search sample and on the gate split."""
        agent, parts = candidate.agent, self._parts
        if agent is None or candidate.refused:
            return candidate
        parts.trees.put(agent.files)
        diff = f"generation/{generation}/diff/{candidate.index}"
        parts.ledger.step(diff, lambda: unified_diff(candidate.parent.files, agent.files))
        parts.emit("candidate.started", generation=generation, name=candidate.name, agent=agent.id)
        done: list[Rollout] = []
        try:
            done += self._run("smoke", "search", agent)
            if fault := _fault(done):
                return replace(candidate, failed=f"smoke run failed: {fault}")
            done += (searched := self._run("search", "search", agent, hasty=True))
            done += (gated := self._run("gate", "gate", agent, hasty=True))
        except GivenUp as error:
            done += error.done
            return replace(candidate, failed=f"given up: {error}")
        finally:
            self._settle(self._cost, done)
        known = replace(agent, search=summarise(searched, parts.task.failure_reward))
        return replace(candidate, agent=known, rewards=tuple(each.reward for each in gated))

    def first(self, agent: AgentView) -> tuple[AgentView, list[Rollout]]:
        """The first agent with its search summary, and its rollouts on the gate; SiaError if it does not run."""
        if fault := _fault(self.roll_out("smoke", "search", agent)):
            raise SiaError(f"the first harness does not run: {fault}")
        searched = self.roll_out("search", "search", agent)
        known = replace(agent, search=summarise(searched, self._parts.task.failure_reward))
        return known, self.roll_out("gate", "gate", agent)

    def roll_out(self, purpose: str, split: Split, agent: AgentView) -> list[Rollout]:
        """Roll an agent out for ``smoke``, ``search``, ``gate`` or ``sealed``, and book it."""
        size = len(getattr(self._samples, purpose))
        self._reserve(size)
        rollouts = self._run(purpose, split, agent)
        self._settle(size, rollouts)
        return rollouts

    def _run(self, purpose: str, split: Split, agent: AgentView, *, hasty: bool = False) -> list[Rollout]:
        public = LABELLED if split == "sealed" else LABELLED[:1]
        instances = getattr(self._samples, purpose)
        return self._parts.rollouts.run(Sweep(purpose, agent.id, agent.harness, split, instances, public, hasty))

    def _reserve(self, rollouts: int) -> None:
        self._parts.budget.reserve(rollouts=rollouts, verifications=rollouts)

    def _settle(self, reserved: int, done: Sequence[Rollout]) -> None:
        judged = sum(each.outcome in ("ok", INVALID) for each in done)
        reservation = {"rollouts": reserved, "verifications": reserved}
        self._parts.budget.settle(reservation, {"rollouts": len(done), "verifications": judged})


def _fault(smoke: Sequence[Rollout]) -> str:
    """Why an agent does not even run, or an empty string."""
    if any(each.outcome in ("ok", INVALID) for each in smoke):
        return ""
    return excerpt(f"{smoke[0].outcome}: {smoke[0].message or smoke[0].log}".strip(": "))
