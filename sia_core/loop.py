"""The loop: roll out, summarise, decide, apply, gate; again; then seal.

Every step goes through the ledger, so a run that was stopped anywhere is gone on
with by calling :meth:`Loop.improve` again: what is recorded is not done twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from sia_core.candidate import SMOKE_CASES, Candidate, Parts, Samples, Trials, make_agent
from sia_core.decision import DECISIONS, RewriteHarness, Stop, UpdateWeights
from sia_core.errors import BudgetExhausted, SiaError, UsageError
from sia_core.evidence import AgentView, Evidence, Trial, summarise
from sia_core.gate import RUN_ALPHA, Comparison, compare, estimate, smallest_gain
from sia_core.types import Split, Task

EVALUATED: tuple[Split, ...] = ("search", "gate", "sealed")


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do: a pure value, recorded as its first step."""

    levers: tuple[str, ...] = ("harness",)
    generations: int = 8
    candidates: int = 2
    search_sample: int = 256
    seed: int = 0

    @property
    def alpha(self) -> float:
        """Each comparison's share of the error that the whole run may make."""
        return RUN_ALPHA / max(1, self.generations * self.candidates)


class Loop:
    """One run. The methods stand in the order in which a generation calls them."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        self.plan, self.parts = plan, parts
        self.samples = take_samples(parts.task, plan)
        self.field = Trials(parts, self.samples, plan.levers, plan.candidates)
        self.agents: dict[str, AgentView] = {}
        self.gate_rewards: dict[str, tuple[float, ...]] = {}
        self.trials: list[Trial] = []
        self.incumbent = ""

    def improve(self) -> None:
        """Run to the end: every generation, then the sealed score."""
        sees = {"n": len(self.samples.gate), "alpha": self.plan.alpha, "smallest_gain": self.smallest_gain()}
        self.parts.ledger.step("gate", constant(sees))
        kept = dict.fromkeys(("rollouts", "verifications"), 2.0 * len(self.samples.sealed))
        try:
            self.parts.budget.reserve(**kept)  # the report is paid for first
            first = self.draft()
        except BudgetExhausted as error:
            raise UsageError(f"--budget is too small for the first agent and the sealed report: {error}") from None
        why = "all generations are done"
        for generation in range(self.plan.generations):
            started = time.monotonic()
            self.parts.emit("generation.started", index=generation, incumbent=self.incumbent)
            if stop := self.generation(generation):
                why = stop
                break
            self._clock(generation, time.monotonic() - started)
        self.parts.budget.settle(kept, {})
        self.seal(first, why)

    def draft(self) -> AgentView:
        """The improver's first harness is the first incumbent. It must at least run."""
        parts = self.parts
        digest = parts.ledger.step("draft", lambda: parts.trees.put(parts.improver.draft(parts.task, self.plan.seed)))
        first = make_agent(parts.trees.get(digest), None, None)
        if fault := self.field.smoke(first):
            raise SiaError(f"the first harness does not run: {fault}")
        rewards = [each.reward for each in self.field.roll_out("gate", "gate", first)]
        self._enter(first, rewards)
        self.incumbent = first.id
        parts.emit("run.drafted", agent=first.id, gate=asdict(estimate(rewards)), smallest_gain=self.smallest_gain())
        return first

    def generation(self, index: int) -> str:
        """One generation, steps 1 to 6 of the design. Returns why the run should stop, or an empty string."""
        if self.parts.budget.left("seconds") <= 0:
            return "the time is spent"
        try:
            self.roll_out_parents()
        except BudgetExhausted as error:
            return f"the budget is spent: {error}"
        decisions = self.decide(index)
        changes = [each for each in decisions if not isinstance(each, Stop)]
        if not changes:
            return " ".join(each.reason for each in decisions if isinstance(each, Stop)) or "nothing was proposed"
        candidates = self.apply(index, changes)
        self.gate(index, candidates)
        return "the budget is spent" if all(each.out_of_budget for each in candidates) else ""

    def roll_out_parents(self) -> None:
        """Steps 1 to 3: roll out the incumbent and the best estimate on the search sample, verify, summarise."""
        for name in sorted({self.incumbent, self.best_estimate().id}):
            agent = self.agents[name]
            if agent.search is None:
                rollouts = self.field.roll_out("search", "search", agent)
                self.agents[name] = replace(agent, search=summarise(rollouts, self.parts.task.failure_reward))

    def decide(self, generation: int) -> list[RewriteHarness | UpdateWeights | Stop]:
        """Step 4: what to change next, typed and recorded."""
        evidence = self.evidence(generation)

        def work() -> Any:
            decisions = list(self.parts.improver.decide(evidence))
            return DECISIONS.dump_python(DECISIONS.validate_python(decisions), mode="json")

        return DECISIONS.validate_python(self.parts.ledger.step(f"generation/{generation}/decide", work))

    def evidence(self, generation: int) -> Evidence:
        """Everything that the improver may know."""
        task, budget = self.parts.task, self.parts.budget
        return Evidence(
            generation=generation,
            seed=self.plan.seed,
            brief=task.brief,
            metric=task.metric,
            levers=self.plan.levers,
            incumbent=self.incumbent,
            agents=dict(self.agents),
            trials=tuple(self.trials),
            playbook=task.playbook(),
            candidates=self.plan.candidates,
            smallest_gain=self.smallest_gain(),
            budget_left={kind: budget.left(kind) for kind in budget.limit.amounts},
        )

    def apply(self, generation: int, decisions: Sequence[RewriteHarness | UpdateWeights]) -> list[Candidate]:
        """Step 5: the candidate agents, several at once: written, smoke-run, rolled out on the gate split."""
        planned: list[Candidate] = []
        for index, decision in enumerate(decisions):
            planned.append(self.field.afford(self._plan(index, decision, planned)))
        with ThreadPoolExecutor(len(planned), thread_name_prefix="sia-candidate") as threads:
            return list(threads.map(lambda each: self.field.attempt(generation, each), planned))

    def gate(self, generation: int, candidates: Sequence[Candidate]) -> None:
        """Step 6: compare each candidate with the incumbent of that moment; promote what is better."""
        for candidate in candidates:
            comparison = None
            if candidate.agent and candidate.rewards:
                self._enter(candidate.agent, candidate.rewards)
                comparison = compare(
                    self.gate_rewards[self.incumbent],
                    candidate.rewards,
                    bounds=self.parts.task.metric.bounds,
                    alpha=self.plan.alpha,
                )
            trial = self._trial(generation, candidate, comparison)
            harness = candidate.agent.harness if candidate.agent else None
            row = {**asdict(trial), "harness": harness, "gate": asdict(comparison) if comparison else None}
            key = f"generation/{generation}/gated/{candidate.index}"
            self.parts.emit("candidate.gated", **self.parts.ledger.step(key, constant(row)))
            self.trials.append(trial)
            if trial.accepted and trial.agent:
                self.incumbent = trial.agent

    def seal(self, first: AgentView, why: str) -> None:
        """Step 7: close the run; only then score the first and the final agent, once, on the sealed split."""
        parts, final = self.parts, self.agents[self.incumbent]
        parts.ledger.step("closed", lambda: {"why": why, "initial": first.harness, "final": final.harness})
        scores: dict[str, Any] = {}
        for which, agent in (("initial", first), ("final", final)):
            if agent.id not in scores:
                parts.emit("seal.started", which=which, agent=agent.id, why=why)
                rewards = [each.reward for each in self.field.roll_out("sealed", "sealed", agent)]
                scores[agent.id] = asdict(estimate(rewards))
            parts.ledger.step(f"sealed/{which}", constant(scores[agent.id]))
        parts.ledger.step("finished", lambda: {"spent": parts.budget.spent})
        parts.emit("run.finished", final=final.id)

    def smallest_gain(self) -> float:
        """The least gain, in units of the reward, that the gate sees with 80% power."""
        low, high = self.parts.task.metric.bounds or (0.0, 1.0)
        return smallest_gain(len(self.samples.gate), self.plan.alpha) * (high - low)

    def best_estimate(self) -> AgentView:
        """The agent with the highest mean on the gate split, promoted or not; the incumbent wins ties."""
        return max(
            self.agents.values(), key=lambda each: (fmean(self.gate_rewards[each.id]), each.id == self.incumbent)
        )

    def _plan(self, index: int, decision: RewriteHarness | UpdateWeights, before: Sequence[Candidate]) -> Candidate:
        parent = self.agents.get(decision.parent or self.incumbent)
        if parent is None:
            gone = f"no agent {decision.parent!r} in the archive"
            return Candidate(index, decision, self.agents[self.incumbent], refused=gone)
        candidate = self.field.plan(index, decision, parent)
        known = {*self.agents, *(each.agent.id for each in before if each.agent)}
        if candidate.agent and candidate.agent.id in known:
            return replace(candidate, refused=f"the edits give agent {candidate.agent.id}, which is known already")
        return candidate

    def _enter(self, agent: AgentView, rewards: Sequence[float]) -> None:
        self.gate_rewards[agent.id] = tuple(rewards)
        self.agents[agent.id] = replace(agent, estimate=fmean(rewards))

    def _trial(self, generation: int, candidate: Candidate, comparison: Comparison | None) -> Trial:
        decision, parent = candidate.decision, candidate.parent
        return Trial(
            generation=generation,
            lever=decision.lever,
            name=candidate.name,
            algorithm=decision.algorithm if isinstance(decision, UpdateWeights) else None,
            parent=parent.id,
            agent=candidate.agent.id if comparison and candidate.agent else None,
            reason=decision.reason,
            predicted=decision.prediction.gain,
            accepted=comparison is not None and comparison.better,
            why=comparison.why if comparison else candidate.refused,
            delta=comparison.delta if comparison else None,
            ci95=comparison.ci95 if comparison else None,
            gain=comparison.candidate - fmean(self.gate_rewards[parent.id]) if comparison else None,
        )

    def _clock(self, generation: int, seconds: float) -> None:
        # Recorded, so that a resumed run stops where the first one would have.
        spent = self.parts.ledger.step(f"generation/{generation}/seconds", lambda: round(seconds, 3))
        self.parts.budget.settle({}, {"seconds": spent})


def take_samples(task: Task, plan: Plan) -> Samples:
    """The instances of every purpose: all of gate and sealed, a seeded sample of search."""
    search, gate, sealed = ([each.id for each in task.instances(split)] for split in EVALUATED)
    random.Random(f"search {plan.seed}").shuffle(search)
    smoke, sample = search[:SMOKE_CASES], search[: plan.search_sample]
    return Samples(tuple(smoke), tuple(sample), tuple(gate), tuple(sealed))


def constant(value: Any) -> Callable[[], Any]:
    """A step whose result is known already, and is only to be recorded."""
    return lambda: value
