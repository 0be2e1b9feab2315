"""One candidate of a generation: from a decision to an agent that was rolled out on the gate split.

Whatever stands in the way (an edit out of bounds, a lever this run has not, a learner
that would learn nothing, no budget, a harness that does not start) ends as
``refused`` or ``failed``, with the reason, and costs as little as possible.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sia_core.allowance import MARGIN, MOST, Allowance
from sia_core.approval import Approval
from sia_core.budget import Budget
from sia_core.decision import RewriteHarness, UpdateWeights
from sia_core.discovering import Answers
from sia_core.errors import BudgetExhausted, HarnessError, SiaError, UsageError
from sia_core.evidence import AgentView, Rollout, excerpt, summarise
from sia_core.harness import HarnessTree, apply_edits, unified_diff
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.plan import PERTURBED, Cost, Samples
from sia_core.rollout import GivenUp, Rollouts, Sweep, verified
from sia_core.sequential import Watch, means
from sia_core.trees import Trees
from sia_core.types import Improver, Split, Task
from sia_core.verifying import INVALID
from sia_core.weights import WeightLever

LABELLED: tuple[Split, ...] = ("public", "search", "gate")


@dataclass(frozen=True)
class Parts:
    """What a run works with; made by :mod:`sia_core.running` from its configuration.

    ``weights`` is None where the run does not pull the weight lever, ``approval`` where nobody is asked.
    """

    task: Task
    improver: Improver
    rollouts: Rollouts
    ledger: Ledger
    trees: Trees
    budget: Budget
    emit: Emitter
    weights: WeightLever | None = None
    approval: Approval | None = None


@dataclass(frozen=True)
class Candidate:
    """A decision, its parent, and what came of it: gate rewards, or why it was refused, or failed.

    ``estimate`` is what an update was going to take, ``took`` what it took, and
    ``stopped`` why it ended before its last step; ``table`` what the selection table said.
    ``rewards`` are one an instance, of the first ones only where its sweep was stopped
    early; ``saved`` is what that gave back to the budget. ``tokens`` are set aside for it.
    ``trained`` are the best rollouts of its training, where their answers are wanted.
    """

    index: int
    decision: RewriteHarness | UpdateWeights
    parent: AgentView
    agent: AgentView | None = None
    refused: str = ""
    out_of_budget: bool = False
    failed: str = ""
    rewards: tuple[float, ...] = ()
    saved: Mapping[str, float] = field(default_factory=dict)
    tokens: float = math.inf
    table: str = ""
    stopped: str = ""
    estimate: Mapping[str, float] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)
    trained: Sequence[Rollout] = ()

    @property
    def trains(self) -> Cost:
        """What its training takes, as far as it was estimated."""
        return Cost(self.estimate.get("rollouts", 0.0), self.estimate.get("verifications", 0.0))

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

    def __init__(self, parts: Parts, samples: Samples, levers: Sequence[str], limit: int, alpha: float) -> None:
        self._parts, self._samples, self._levers, self._limit = parts, samples, levers, limit
        self._alpha = alpha
        self.answers = Answers(wanted=samples.evaluations > 0)
        self._took: dict[str, tuple[float, int]] = {}  # by agent: a rollout's tokens, and the most that one needed
        self._kept = 0.0

    @property
    def cost(self) -> Cost:
        """What looking at one agent takes."""
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

    def afford(self, candidate: Candidate, among: int) -> Candidate:
        """Reserve all that the candidate may cost. In the order of decisions, so that a resumed run does the same.

        Of limited tokens that is an even share of what is left, ``among`` so many candidates, within bounds
        that follow from what its parent took.
        """
        if candidate.refused:
            return candidate
        budget, tokens = self._parts.budget, math.inf
        if self._counts_tokens:
            needed = self._expected(candidate.parent, self.cost.rollouts) + MARGIN * candidate.estimate.get(
                "tokens", 0.0
            )
            share = budget.left("tokens") / among
            tokens = min(MOST * needed, max(share, needed)) if needed else share
        try:
            cost = self.cost + candidate.trains
            budget.reserve(**cost.kinds, tokens=tokens if self._counts_tokens else 0.0)
        except BudgetExhausted as error:
            return replace(candidate, refused=str(error), out_of_budget=True)
        return replace(candidate, tokens=tokens)

    @property
    def _counts_tokens(self) -> bool:
        return "tokens" in self._parts.budget.limit.amounts

    def _expected(self, agent: AgentView, rollouts: float) -> float:
        """The tokens to set aside at least for so many rollouts of an agent, or of one made of it.

        What is under way at once is counted at its most.
        """
        mean, peak = self._took[agent.id]
        return MARGIN * mean * rollouts + peak * min(rollouts, self._parts.rollouts.at_once)

    def keep(self, *agents: AgentView) -> None:
        """Set tokens aside for the sealed report on these agents, in place of what was set aside before."""
        budget = self._parts.budget
        budget.settle({"tokens": self._kept}, {})
        half = self._samples.report.rollouts // 2
        wanted = sum(self._expected(agent, half) for agent in {agent.id: agent for agent in agents}.values())
        self._kept = min(wanted, max(0.0, budget.left("tokens")))
        budget.reserve(tokens=self._kept)
        if self._kept < wanted and len(agents) == 1:
            raise UsageError(
                f"--budget tokens={budget.limit.amounts['tokens']:g} is too small: the first agent took "
                f"{budget.spent['tokens']:,.0f}, and the sealed report on it takes about {wanted:,.0f}"
            )

    def attempt(self, generation: int, candidate: Candidate, incumbent: Sequence[float]) -> Candidate:
        """Write the harness or train the weights, smoke-run the agent, and roll it out on search sample and gate.

        ``incumbent`` are the gate rewards by which looks at the gate sweep end it early.
        """
        if candidate.refused:
            return candidate
        spent: list[Mapping[str, float]] = []
        allowance = Allowance(candidate.tokens)
        try:
            candidate = self._made(generation, candidate, spent, allowance)
            if agent := candidate.agent:
                return self._tried(generation, candidate, agent, incumbent, spent, allowance)
            return candidate
        finally:
            reserved = (self.cost + candidate.trains).kinds
            reserved["tokens"] = candidate.tokens if self._counts_tokens else 0.0
            self._parts.budget.settle(reserved, {**_sum(spent), "tokens": allowance.spent})

    def _made(
        self, generation: int, candidate: Candidate, spent: list[Mapping[str, float]], allowance: Allowance
    ) -> Candidate:
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
        training = Allowance(candidate.tokens - self._expected(candidate.parent, self.cost.rollouts))
        starts = self.answers.starts(len(self._samples.search))
        trained = parts.weights.train(key, decision, candidate.parent, training, starts)
        allowance.settle(None, 0, training.spent)
        spent.append(trained.spent)
        candidate = replace(candidate, took=trained.took, stopped=trained.stopped, trained=trained.found)
        if trained.adapter is None:
            return replace(candidate, failed=f"training failed: {trained.stopped or 'nothing was learned'}")
        parent = candidate.parent
        return replace(candidate, agent=make_agent(parent.files, parent, decision.algorithm, trained.adapter))

    def _tried(
        self,
        generation: int,
        candidate: Candidate,
        agent: AgentView,
        incumbent: Sequence[float],
        spent: list[Mapping[str, float]],
        allowance: Allowance,
    ) -> Candidate:
        parts = self._parts
        parts.emit("candidate.started", generation=generation, name=candidate.name, agent=agent.id)
        done: list[Rollout] = []
        try:
            done += self._run("smoke", "search", agent, allowance)
            if fault := fault_of(done):
                return replace(candidate, failed=f"smoke run failed: {fault}")
            done += (searched := self._run("search", "search", agent, allowance, hasty=True))
            known = self._known(agent, searched, spent, allowance)
            watch = Watch(incumbent, parts.task.metric.bounds, self._alpha, self._samples.repeats)
            done += (gated := self._run("gate", "gate", agent, allowance, hasty=True, enough=watch))
        except GivenUp as error:
            done += error.done
            return replace(candidate, failed=f"given up: {error}", out_of_budget=error.short)
        finally:
            spent.append(_spent(done))
        self._took[known.id] = (allowance.mean, allowance.peak)
        self.answers.keep(known.id, (*candidate.trained, *searched), gated)
        unseen = self._samples.repeats * len(self._samples.gate) - len(gated)
        took = {**_spent(gated), "tokens": sum(each.tokens for each in gated)}
        saved = {kind: amount / len(gated) * unseen for kind, amount in took.items()}
        rewards = means([each.reward for each in gated], self._samples.repeats)
        return replace(candidate, agent=known, rewards=rewards, saved=saved)

    def _known(
        self, agent: AgentView, searched: Sequence[Rollout], spent: list[Mapping[str, float]], allowance: Allowance
    ) -> AgentView:
        """The agent with what it did on search, and what a learner would make of it."""
        agent = replace(agent, search=summarise(searched, self._parts.task.failure_reward))
        if self._explores and (lever := self._parts.weights):
            starts = self.answers.starts(len(self._samples.search))
            agent = replace(agent, exploration=lever.explore(agent, self._samples.search, allowance, starts))
            spent.append(lever.spent(agent))
        return agent

    def first(self, agent: AgentView) -> tuple[AgentView, list[Rollout]]:
        """The first agent with its search summary, and its rollouts on the gate; SiaError if it does not run."""
        allowance = Allowance(self._parts.budget.left("tokens"))
        try:
            if fault := fault_of(self._booked("smoke", "search", agent, allowance)):
                raise SiaError(f"the first harness does not run: {fault}")
            searched = self._booked("search", "search", agent, allowance)
            explored = (self.cost - self._samples.look(explores=False)).kinds
            spent: list[Mapping[str, float]] = []
            self._parts.budget.reserve(**explored)
            known = self._known(agent, searched, spent, allowance)
            self._parts.budget.settle(explored, _sum(spent))
            gated = self._booked("gate", "gate", agent, allowance)
        except GivenUp as error:
            raise UsageError(f"--budget is too small for the first agent: {error}") from None
        self._parts.budget.settle({}, {"tokens": allowance.spent})
        self._took[agent.id] = (allowance.mean, allowance.peak)
        self.answers.keep(agent.id, searched, gated)
        if self._counts_tokens:
            self.keep(agent)
        return known, gated

    def sealed(self, agent: AgentView, among: int, purpose: str = "sealed") -> tuple[list[float], int]:
        """An agent's sealed rewards, with an even share of the tokens that are left; and how many ran out of theirs.

        ``purpose`` is ``sealed``, or ``perturbed`` for the instances in their other guise; ``gate`` where a
        task's sealed instances are for answers, and agents of a closed run are compared on the gate.
        """
        budget = self._parts.budget
        budget.settle({"tokens": self._kept}, {})
        self._kept = 0.0
        allowance = Allowance(budget.left("tokens") / among, strict=False)
        rollouts = self._booked(purpose, "gate" if purpose == "gate" else "sealed", agent, allowance)
        budget.settle({}, {"tokens": allowance.spent})
        return list(means([each.reward for each in rollouts], self._samples.repeats)), allowance.short

    def _booked(self, purpose: str, split: Split, agent: AgentView, allowance: Allowance) -> list[Rollout]:
        """Roll an agent out for one of the purposes, and book all but the tokens."""
        reserved = self._samples.cost(purpose).kinds
        self._parts.budget.reserve(**reserved)
        rollouts = self._run(purpose, split, agent, allowance)
        self._parts.budget.settle(reserved, _spent(rollouts))
        return rollouts

    def _run(
        self,
        purpose: str,
        split: Split,
        agent: AgentView,
        allowance: Allowance,
        *,
        hasty: bool = False,
        enough: Watch | None = None,
    ) -> list[Rollout]:
        public = LABELLED if split == "sealed" else LABELLED[:1]
        instances, repeats = self._samples.of(purpose)
        about = (purpose, agent.id, agent.harness, split, instances, public, hasty)
        sweep = Sweep(
            *about,
            adapter=agent.adapter,
            group=repeats,
            perturbed=purpose == PERTURBED,
            evaluations=self._samples.evaluated(purpose),
            starts=self.answers.starts(len(instances)) if purpose == "search" else (),
        )
        if enough is None:
            return self._parts.rollouts.run(sweep, allowance)
        return self._parts.rollouts.run(sweep, allowance, enough)


def _spent(done: Sequence[Rollout]) -> dict[str, float]:
    return {"rollouts": len(done), "verifications": verified(done)}


def _sum(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {kind: sum(part[kind] for part in parts) for kind in ("rollouts", "verifications")}


def fault_of(smoke: Sequence[Rollout]) -> str:
    """Why an agent does not even run, or an empty string."""
    if any(each.outcome in ("ok", INVALID) for each in smoke):
        return ""
    return excerpt(f"{smoke[0].outcome}: {smoke[0].message or smoke[0].log}".strip(": "))
