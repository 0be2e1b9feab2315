"""From a decision to an agent that was rolled out on the gate split.

Whatever stands in the way (an edit out of bounds, a lever this run has not, a learner
that would learn nothing, no budget, a harness that does not start) ends as
``refused`` or ``failed``, with the reason, and costs as little as possible.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sia_core.decision import Change
from sia_core.errors import BudgetExhausted, UsageError, excerpt
from sia_core.evidence import AgentView, Rollout, summarise
from sia_core.harness import unified_diff
from sia_core.run import record
from sia_core.run.allowance import Allowance, TokenShares
from sia_core.run.budget import Cost
from sia_core.run.candidate import LABELLED, Candidate, fault_of, make_agent, unrunnable, within_bounds
from sia_core.run.discover import Answers
from sia_core.run.gatekeeper import Gatekeeper, Watch, means
from sia_core.run.levers import Lever, LeverRun, NewAgent, Pull
from sia_core.run.parts import Parts, faults_of
from sia_core.run.plan import PERTURBED, Samples
from sia_core.run.record import verified
from sia_core.run.rollouts import GivenUp, Sweep
from sia_core.types import Split


class Purposes:
    """The sweeps of one run. On search they start from its ``answers``, where there are any."""

    def __init__(self, parts: Parts, samples: Samples, answers: Answers) -> None:
        self._parts, self._samples, self._answers = parts, samples, answers

    def run(
        self,
        purpose: str,
        split: Split,
        agent: AgentView,
        allowance: Allowance,
        *,
        hasty: bool = False,
        enough: Watch | None = None,
    ) -> list[Rollout]:
        """An agent's rollouts for a purpose; GivenUp where a ``hasty`` sweep is, or tokens run out."""
        public = LABELLED if split == "sealed" else LABELLED[:1]
        instances, repeats = self._samples.of(purpose)
        sweep = Sweep(
            purpose,
            agent.id,
            agent.harness,
            split,
            instances,
            public,
            hasty,
            adapter=agent.adapter,
            group=repeats,
            perturbed=purpose == PERTURBED,
            evaluations=self._samples.evaluated(purpose),
            starts=self._answers.starts(len(instances)) if purpose == "search" else (),
        )
        return self._parts.rollouts.run(sweep, allowance, enough)

    def booked(self, purpose: str, split: Split, agent: AgentView, allowance: Allowance) -> list[Rollout]:
        """The same, with all but its tokens reserved before and booked after."""
        reserved = self._samples.cost(purpose).kinds
        self._parts.budget.reserve(**reserved)
        rollouts = self.run(purpose, split, agent, allowance)
        self._parts.budget.settle(reserved, spent_on(rollouts))
        return rollouts


def spent_on(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The rollouts and verifications that these were."""
    return {"rollouts": len(rollouts), "verifications": verified(rollouts)}


def total(amounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of several amounts of rollouts and verifications."""
    return {kind: sum(each.get(kind, 0.0) for each in amounts) for kind in ("rollouts", "verifications")}


class CandidateRunner:
    """Takes candidates from decision to gate rewards. At most ``limit`` are tried in a generation."""

    def __init__(self, parts: Parts, samples: Samples, limit: int, gate: Gatekeeper) -> None:
        self._parts, self._samples, self._limit, self._gate = parts, samples, limit, gate
        self.answers = Answers(active=samples.evaluations > 0)
        self._purposes = Purposes(parts, samples, self.answers)
        self._tokens = TokenShares(parts.budget, parts.rollouts.at_once)
        self._tried: set[str] = set()
        self._mutex = threading.Lock()
        run = LeverRun(
            parts.task,
            parts.plugins,
            parts.ledger,
            parts.trees,
            parts.rollouts,
            parts.budget,
            parts.emit,
            samples.search,
            samples.training,
            parts.can,
            self.answers.starts,
        )
        for name, lever in parts.levers.items():
            with faults_of(f"the {name} lever"):
                lever.begin(run)

    @property
    def cost(self) -> Cost:
        """The cost of a look at one agent."""
        return self._samples.look(self._looking.values())

    @property
    def _looking(self) -> dict[str, Lever]:
        return {name: lever for name, lever in self._parts.levers.items() if not lever.refused}

    def plan(self, index: int, decision: Change, parent: AgentView) -> Candidate:
        """The candidate, or the reason why nothing is spent on it; with its agent where its lever makes it at once."""
        candidate = Candidate(index, decision, parent)
        if index >= self._limit:
            return replace(candidate, refused=f"this run tries {self._limit} candidates a generation")
        lever = self._parts.levers.get(decision.lever)
        if lever is None:
            return replace(candidate, refused=f"the {decision.lever} lever is not among this run's levers")
        if reason := lever.refused:
            return replace(candidate, refused=reason)
        with faults_of(f"the {decision.lever} lever"):
            plan = lever.plan(decision, parent)
            candidate = replace(candidate, plan=plan, refused=plan.refused)
        if plan.refused or plan.agent is None:
            return candidate
        agent = _agent(candidate, plan.agent)
        if not self._is_new(agent):
            return replace(candidate, refused=_again(candidate, agent))
        return replace(candidate, agent=agent)

    def afford(self, candidate: Candidate, among: int) -> Candidate:
        """Reserve all that the candidate may cost. In the order of decisions, so that a resumed run does the same."""
        if candidate.refused:
            return candidate
        estimate = candidate.plan.estimate.get("tokens", 0.0)
        tokens = self._tokens.share(candidate.parent.id, self.cost.rollouts, estimate, among)
        candidate = replace(candidate, tokens=tokens)
        try:
            self._parts.budget.reserve(**self._reserved(candidate))
        except BudgetExhausted as error:
            return replace(candidate, refused=str(error), out_of_budget=True)
        return candidate

    def _reserved(self, candidate: Candidate) -> dict[str, float]:
        tokens = candidate.tokens if self._tokens.counted else 0.0
        return {**(self.cost + candidate.plan.cost).kinds, "tokens": tokens}

    def keep(self, *agents: AgentView) -> None:
        """Set tokens aside for the sealed report on these agents, in place of what was set aside before."""
        self._tokens.keep([agent.id for agent in agents], self._samples.report.rollouts // 2)

    def attempt(self, generation: int, candidate: Candidate) -> Candidate:
        """Apply the decision, smoke-run the agent, and roll it out on search and, if good enough, the gate."""
        if candidate.refused:
            return candidate
        spent: list[Mapping[str, float]] = []
        allowance = Allowance(candidate.tokens)
        try:
            candidate = self._made(generation, candidate, spent, allowance)
            if agent := candidate.agent:
                return self._rolled_out(generation, candidate, agent, spent, allowance)
            return candidate
        finally:
            self._parts.budget.settle(self._reserved(candidate), {**total(spent), "tokens": allowance.spent})

    def _made(
        self, generation: int, candidate: Candidate, spent: list[Mapping[str, float]], allowance: Allowance
    ) -> Candidate:
        """The candidate with its agent, whose harness is in the store; or why there is none."""
        if candidate.agent is None:
            candidate = self._applied(generation, candidate, spent, allowance)
        parts, parent, agent = self._parts, candidate.parent, candidate.agent
        if agent and agent.harness != parent.harness:
            parts.trees.put(agent.files)
            key = record.diff(generation, candidate.index)
            parts.ledger.step(key, lambda: unified_diff(parent.files, agent.files))
        return candidate

    def _applied(
        self, generation: int, candidate: Candidate, spent: list[Mapping[str, float]], allowance: Allowance
    ) -> Candidate:
        """The candidate after its lever was applied, with the tokens that a look at its agent will not need."""
        parent, name = candidate.parent, candidate.decision.lever
        own = Allowance(candidate.tokens - self._tokens.expected(parent.id, self.cost.rollouts))
        key = record.pull(generation, candidate.index)
        with faults_of(f"the {name} lever"):
            pull = Pull(generation, candidate.index, candidate.decision, parent, candidate.plan, key)
            result = self._parts.levers[name].apply(pull, own)
            allowance.settle(None, 0, own.spent)
            spent.append(result.spent)
            candidate = replace(candidate, result=result)
        if result.agent is None:
            return replace(candidate, failed=result.failed or f"the {name} lever made no agent")
        agent = _agent(candidate, result.agent)
        if not self._is_new(agent):
            return replace(candidate, failed=_again(candidate, agent))
        return replace(candidate, agent=agent)

    def _is_new(self, agent: AgentView) -> bool:
        """Note that a candidate made this agent; False where one did before."""
        with self._mutex:
            new = agent.id not in self._tried
            self._tried.add(agent.id)
        return new

    def _rolled_out(
        self,
        generation: int,
        candidate: Candidate,
        agent: AgentView,
        spent: list[Mapping[str, float]],
        allowance: Allowance,
    ) -> Candidate:
        parts, run = self._parts, self._purposes.run
        parts.emit("candidate.started", generation=generation, name=candidate.decision.name, agent=agent.id)
        rollouts: list[Rollout] = []
        try:
            rollouts += run("smoke", "search", agent, allowance)
            if fault := fault_of(rollouts):
                return replace(candidate, failed=f"smoke run failed: {excerpt(fault)}")
            rollouts += (searched := run("search", "search", agent, allowance, hasty=True))
            view = self._summarised(agent, searched)
            candidate = replace(candidate, agent=view, searched=tuple(each.reward for each in searched))
            if screened := self._gate.screens_out(candidate.searched):
                self._tokens.took(view.id, allowance)
                return replace(candidate, screened=screened)
            watch = self._gate.watch(candidate.index)
            rollouts += (gated := run("gate", "gate", agent, allowance, hasty=True, enough=watch))
        except GivenUp as error:
            rollouts += error.rollouts
            return replace(candidate, failed=f"given up: {error}", out_of_budget=error.short)
        finally:
            spent.append(spent_on(rollouts))
        self._tokens.took(view.id, allowance)
        self.answers.keep(view.id, (*candidate.result.rollouts, *searched), gated)
        unseen = self._samples.repeats * len(self._samples.gate) - len(gated)
        took = {**spent_on(gated), "tokens": sum(each.tokens for each in gated)}
        saved = {kind: amount / len(gated) * unseen for kind, amount in took.items()}
        rewards = means([each.reward for each in gated], self._samples.repeats)
        return replace(candidate, rewards=rewards, saved=saved)

    def _summarised(self, agent: AgentView, searched: Sequence[Rollout]) -> AgentView:
        """The agent with what it did on search."""
        task = self._parts.task
        return replace(agent, search=summarise(searched, task.metric.reward(task.failure_reward)))

    def looked_at(self, agent: AgentView) -> AgentView:
        """An agent that may be changed next, with what the levers see in it; as it was where that cannot be paid."""
        budget = self._parts.budget
        reserved = (self.cost - self._samples.look()).kinds
        try:
            budget.reserve(**reserved)
        except BudgetExhausted:
            return agent
        allowance = Allowance(self._tokens.share(agent.id, reserved["rollouts"], 0.0, self._limit + 1))
        spent: list[Mapping[str, float]] = []
        for name, lever in self._looking.items():
            with faults_of(f"the {name} lever"):
                looked = lever.look(agent, allowance)
                agent = looked.agent
                spent.append(looked.spent)
        budget.settle(reserved, {**total(spent), "tokens": allowance.spent})
        return agent

    def first(self, agent: AgentView) -> tuple[AgentView, list[Rollout], list[Rollout]]:
        """The first agent with its search summary, and its rollouts on search and gate; SiaError if it does not run."""
        budget = self._parts.budget
        allowance = Allowance(budget.left("tokens"))
        self._is_new(agent)

        def booked(purpose: str, split: Split) -> list[Rollout]:
            return within_bounds(self._purposes.booked(purpose, split, agent, allowance))

        try:
            if fault := fault_of(booked("smoke", "search")):
                raise unrunnable(fault)
            searched = booked("search", "search")
            view = self._summarised(agent, searched)
            gated = booked("gate", "gate")
        except GivenUp as error:
            raise UsageError(f"--budget is too small for the first agent: {error}") from None
        budget.settle({}, {"tokens": allowance.spent})
        self._tokens.took(agent.id, allowance)
        self.answers.keep(agent.id, searched, gated)
        if self._tokens.counted:
            self.keep(agent)
        return view, searched, gated

    def sealed(self, agent: AgentView, among: int, purpose: str = "sealed") -> tuple[list[float], int]:
        """An agent's sealed rewards, with an even share of the tokens that are left; and how many ran out of theirs.

        ``purpose`` is ``sealed``, or ``perturbed`` for the instances in their other guise; ``gate`` where a
        task's sealed instances are for answers, and agents of a closed run are compared on the gate.
        """
        budget = self._parts.budget
        self._tokens.release()
        allowance = Allowance(budget.left("tokens") / among, strict=False)
        split: Split = "gate" if purpose == "gate" else "sealed"
        rollouts = self._purposes.booked(purpose, split, agent, allowance)
        budget.settle({}, {"tokens": allowance.spent})
        return list(means([each.reward for each in rollouts], self._samples.repeats)), allowance.short


def _agent(candidate: Candidate, new: NewAgent) -> AgentView:
    return make_agent(new.files, candidate.parent, candidate.decision.name, new.adapter)


def _again(candidate: Candidate, agent: AgentView) -> str:
    return f"{candidate.decision.gives} agent {agent.id}, which was tried before"
