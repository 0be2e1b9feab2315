"""One candidate of a generation: from a decision to an agent that was rolled out on the gate split.

Whatever stands in the way (an edit out of bounds, a lever this run has not, a learner
that would learn nothing, no budget, a harness that does not start) ends as
``refused`` or ``failed``, with the reason, and costs as little as possible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sia_core.budget import Budget
from sia_core.decision import RewriteHarness, UpdateWeights
from sia_core.errors import BudgetExhausted, HarnessError, SiaError
from sia_core.evidence import AgentView, Rollout, excerpt, summarise
from sia_core.explore import EXPLORED, GROUP
from sia_core.harness import HarnessTree, apply_edits, unified_diff
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.rollout import GivenUp, Rollouts, Sweep, verified
from sia_core.trees import Trees
from sia_core.types import Improver, Split, Task
from sia_core.verifying import INVALID
from sia_core.weights import WeightLever

SMOKE_CASES = 2
PERTURBED = "perturbed"
LABELLED: tuple[Split, ...] = ("public", "search", "gate")


@dataclass(frozen=True)
class Parts:
    """What a run works with; made by :mod:`sia_core.running` from its configuration.

    ``weights`` is None where the run does not pull the weight lever.
    """

    task: Task
    improver: Improver
    rollouts: Rollouts
    ledger: Ledger
    trees: Trees
    budget: Budget
    emit: Emitter
    weights: WeightLever | None = None


@dataclass(frozen=True)
class Samples:
    """The instances that each purpose takes, fixed for the run."""

    smoke: tuple[str, ...]
    search: tuple[str, ...]
    gate: tuple[str, ...]
    sealed: tuple[str, ...]

    def look(self, *, explores: bool) -> int:
        """The rollouts that looking at one agent takes, with or without an exploration for the weight lever."""
        explored = GROUP * min(EXPLORED, len(self.search)) if explores else 0
        return len(self.smoke) + len(self.search) + len(self.gate) + explored


@dataclass(frozen=True)
class Candidate:
    """A decision, its parent, and what came of it: gate rewards, or why it was refused, or failed.

    ``estimate`` is what an update was going to take, ``took`` what it took, and
    ``stopped`` why it ended before its last step; ``table`` what the selection table said.
    """

    index: int
    decision: RewriteHarness | UpdateWeights
    parent: AgentView
    agent: AgentView | None = None
    refused: str = ""
    out_of_budget: bool = False
    failed: str = ""
    rewards: tuple[float, ...] = ()
    table: str = ""
    stopped: str = ""
    estimate: Mapping[str, float] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.decision.name if isinstance(self.decision, RewriteHarness) else self.decision.algorithm


def make_agent(
    tree: HarnessTree, parent: AgentView | None, change: str | None, adapter: str | None = None
) -> AgentView:
    """An agent around a harness and an adapter; its id derives from what it is made of."""
    changes = (*(parent.edits if parent else ()), *([change] if change else ()))
    whole = hashlib.sha256(f"{tree.digest} {adapter}".encode()).hexdigest() if adapter else tree.digest
    return AgentView(whole[:12], tree.digest, adapter, parent.id if parent else None, tree, changes)


class Evaluator:
    """Rolls agents out and books it, and takes candidates from decision to gate rewards."""

    def __init__(self, parts: Parts, samples: Samples, levers: Sequence[str], limit: int) -> None:
        self._parts, self._samples, self._levers, self._limit = parts, samples, levers, limit

    @property
    def cost(self) -> int:
        """The rollouts that looking at one agent takes."""
        return self._samples.look(explores=self._explores)

    @property
    def _explores(self) -> bool:
        return self._parts.weights is not None and not self._parts.weights.refused

    def plan(self, index: int, decision: RewriteHarness | UpdateWeights, parent: AgentView) -> Candidate:
        """The candidate, or the reason why nothing is spent on it; with its agent where it takes no training."""
        candidate = Candidate(index, decision, parent)
        if index >= self._limit:
            return replace(candidate, refused=f"this run tries {self._limit} candidates a generation")
        if decision.lever not in self._levers:
            return replace(candidate, refused=f"the {decision.lever} lever is not among this run's levers")
        if isinstance(decision, UpdateWeights):
            return self._plan_update(candidate, decision)
        try:
            tree = apply_edits(parent.files, decision.edits)
        except HarnessError as error:
            return replace(candidate, refused=f"edit refused: {error}")
        return replace(candidate, agent=make_agent(tree, parent, decision.name, parent.adapter))

    def _plan_update(self, candidate: Candidate, decision: UpdateWeights) -> Candidate:
        lever = self._parts.weights
        if lever is None:
            return replace(candidate, refused="this run has no policy to train")
        candidate = replace(candidate, table=lever.table(candidate.parent))
        if refused := lever.refusal(decision, candidate.parent):
            return replace(candidate, refused=refused)
        return replace(candidate, estimate=lever.estimate(decision, candidate.parent))

    def afford(self, candidate: Candidate) -> Candidate:
        """Reserve all that the candidate may cost. In the order of decisions, so that a resumed run does the same."""
        if candidate.refused:
            return candidate
        try:
            amount = self._cost(candidate)
            tokens = candidate.estimate.get("tokens", 0.0)  # of sweeps they are not known before
            self._parts.budget.reserve(rollouts=amount, verifications=amount, tokens=tokens)
        except BudgetExhausted as error:
            return replace(candidate, refused=str(error), out_of_budget=True)
        return candidate

    def _cost(self, candidate: Candidate) -> float:
        return self.cost + candidate.estimate.get("rollouts", 0.0)

    def attempt(self, generation: int, candidate: Candidate) -> Candidate:
        """Write the harness or train the weights, smoke-run the agent, and roll it out on search sample and gate."""
        if candidate.refused:
            return candidate
        spent: list[Mapping[str, float]] = []
        try:
            candidate = self._made(generation, candidate, spent)
            return self._tried(generation, candidate, candidate.agent, spent) if candidate.agent else candidate
        finally:
            reserved = {"rollouts": self._cost(candidate), "verifications": self._cost(candidate)}
            reserved["tokens"] = candidate.estimate.get("tokens", 0.0)
            self._parts.budget.settle(reserved, _sum(spent))

    def _made(self, generation: int, candidate: Candidate, spent: list[Mapping[str, float]]) -> Candidate:
        """The candidate with its agent, in the store; or why training failed."""
        parts, decision = self._parts, candidate.decision
        if isinstance(decision, RewriteHarness):
            if agent := candidate.agent:
                parts.trees.put(agent.files)
                diff = f"generation/{generation}/diff/{candidate.index}"
                parts.ledger.step(diff, lambda: unified_diff(candidate.parent.files, agent.files))
            return candidate
        assert parts.weights is not None  # or it was refused
        key = f"generation/{generation}/train/{candidate.index}"
        parts.ledger.step(f"{key}/estimate", lambda: dict(candidate.estimate))
        parts.emit("training.started", generation=generation, algorithm=decision.algorithm, **candidate.estimate)
        trained = parts.weights.train(key, decision, candidate.parent)
        spent.append(trained.spent)
        candidate = replace(candidate, took=trained.took, stopped=trained.stopped)
        if trained.adapter is None:
            return replace(candidate, failed=f"training failed: {trained.stopped or 'nothing was learned'}")
        parent = candidate.parent
        return replace(candidate, agent=make_agent(parent.files, parent, decision.algorithm, trained.adapter))

    def _tried(
        self, generation: int, candidate: Candidate, agent: AgentView, spent: list[Mapping[str, float]]
    ) -> Candidate:
        parts = self._parts
        parts.emit("candidate.started", generation=generation, name=candidate.name, agent=agent.id)
        done: list[Rollout] = []
        try:
            done += self._run("smoke", "search", agent)
            if fault := _fault(done):
                return replace(candidate, failed=f"smoke run failed: {fault}")
            done += (searched := self._run("search", "search", agent, hasty=True))
            known = self._known(agent, searched, spent)
            done += (gated := self._run("gate", "gate", agent, hasty=True))
        except GivenUp as error:
            done += error.done
            return replace(candidate, failed=f"given up: {error}")
        finally:
            spent.append(_spent(done))
        return replace(candidate, agent=known, rewards=tuple(each.reward for each in gated))

    def _known(self, agent: AgentView, searched: Sequence[Rollout], spent: list[Mapping[str, float]]) -> AgentView:
        """The agent with what it did on search, and what a learner would make of it."""
        agent = replace(agent, search=summarise(searched, self._parts.task.failure_reward))
        if self._explores and (lever := self._parts.weights):
            agent = replace(agent, exploration=lever.explore(agent, self._samples.search))
            spent.append(lever.spent(agent))
        return agent

    def first(self, agent: AgentView) -> tuple[AgentView, list[Rollout]]:
        """The first agent with its search summary, and its rollouts on the gate; SiaError if it does not run."""
        if fault := _fault(self.roll_out("smoke", "search", agent)):
            raise SiaError(f"the first harness does not run: {fault}")
        searched = self.roll_out("search", "search", agent)
        explored = self.cost - self._samples.look(explores=False)
        spent: list[Mapping[str, float]] = []
        self._reserve(explored)
        known = self._known(agent, searched, spent)
        self._parts.budget.settle({"rollouts": explored, "verifications": explored}, _sum(spent))
        return known, self.roll_out("gate", "gate", agent)

    def roll_out(self, purpose: str, split: Split, agent: AgentView) -> list[Rollout]:
        """Roll an agent out for ``smoke``, ``search``, ``gate``, ``sealed`` or ``perturbed``, and book it."""
        size = len(self._instances(purpose))
        self._reserve(size)
        rollouts = self._run(purpose, split, agent)
        self._parts.budget.settle({"rollouts": size, "verifications": size}, _spent(rollouts))
        return rollouts

    def _run(self, purpose: str, split: Split, agent: AgentView, *, hasty: bool = False) -> list[Rollout]:
        public = LABELLED if split == "sealed" else LABELLED[:1]
        sweep = Sweep(
            purpose,
            agent.id,
            agent.harness,
            split,
            self._instances(purpose),
            public,
            hasty,
            adapter=agent.adapter,
            perturbed=purpose == PERTURBED,
        )
        return self._parts.rollouts.run(sweep)

    def _instances(self, purpose: str) -> tuple[str, ...]:
        instances: tuple[str, ...] = getattr(self._samples, "sealed" if purpose == PERTURBED else purpose)
        return instances

    def _reserve(self, rollouts: float) -> None:
        self._parts.budget.reserve(rollouts=rollouts, verifications=rollouts)


def _spent(done: Sequence[Rollout]) -> dict[str, float]:
    return {"rollouts": len(done), "verifications": verified(done), "tokens": sum(each.tokens for each in done)}


def _sum(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = ("rollouts", "verifications", "tokens")
    return {kind: sum(part[kind] for part in parts) for kind in kinds}


def _fault(smoke: Sequence[Rollout]) -> str:
    """Why an agent does not even run, or an empty string."""
    if any(each.outcome in ("ok", INVALID) for each in smoke):
        return ""
    return excerpt(f"{smoke[0].outcome}: {smoke[0].message or smoke[0].log}".strip(": "))
