"""The loop: roll out, summarise, decide, apply, gate; again; then seal.

Every step goes through the ledger, so :meth:`Loop.improve` continues a run that was stopped
anywhere: what is recorded is not done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from sia_core.decision import DECISIONS, Change, Decision, Stop
from sia_core.evidence import AgentView, Evidence, TaskView, Trial
from sia_core.run import record
from sia_core.run.candidate import Candidate, make_agent
from sia_core.run.candidate_runner import CandidateRunner
from sia_core.run.gate import Comparison
from sia_core.run.gatekeeper import Gatekeeper, means
from sia_core.run.intervals import estimate, narrow, normal, summary
from sia_core.run.parts import Parts, faults_of
from sia_core.run.plan import Plan, check_budget, take_samples
from sia_core.run.robustness import robustness
from sia_core.run.run_view import equip
from sia_core.run.sealing import score_agents, score_answers


class Loop:
    """One run. The methods stand in the order in which a generation calls them."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        self.plan, self.parts = plan, parts
        self.samples = take_samples(parts.task, plan)
        self.gatekeeper = self.gatekeeper_for(plan, self.samples, parts.task)
        self.runner = CandidateRunner(parts, self.samples, plan.candidates, self.gatekeeper)
        self.agents: dict[str, AgentView] = {}
        self.gate_rewards: dict[str, tuple[float, ...]] = {}
        self.trials: list[Trial] = []
        self.incumbent = self.first = ""
        self.seen: set[str] = set()
        equip(parts, self.samples)
        self.saved = dict.fromkeys(("rollouts", "verifications", "tokens"), 0.0)

    gatekeeper_for: type[Gatekeeper] = Gatekeeper

    def improve(self) -> None:
        """Run to the end: every generation, then the sealed score."""
        check_budget(self.samples, self.runner.cost, self.parts.budget.limit)
        self.parts.ledger.step(record.GATE, self.gatekeeper.sees)
        reserve = self.samples.report.kinds
        self.parts.budget.reserve(**reserve)  # the report is paid for first
        with self._timed(record.DRAFT):
            first = self.draft()
        why = ""
        for generation in range(self.plan.generations):
            self.parts.emit("generation.started", index=generation, incumbent=self.incumbent)
            with self._timed(record.generation(generation)):
                why = self.generation(generation)
            if why:
                break
        self.parts.budget.settle(reserve, {})
        self.seal(first, why or "all generations are done")

    def draft(self) -> AgentView:
        """The improver's first harness is the first incumbent. It must at least run."""
        parts, task = self.parts, self.parts.task
        public = task.public_dir(("public",))
        view = TaskView(task.name, task.kind, task.brief, task.metric, task.seed_harness(), public)

        def work() -> str:
            with self._improver():
                return parts.trees.put(parts.improver.draft(view, self.plan.seed))

        drafted = make_agent(parts.trees.get(self._booked(record.DRAFT, work)), None, None)
        first, searched, gated = self.runner.first(drafted)
        rewards = [each.reward for each in gated]
        self._enter(first)
        self.gate_rewards[first.id] = means(rewards, self.plan.repeats)
        self.incumbent = self.first = first.id
        self.gatekeeper.first(first, [each.reward for each in searched], rewards)
        if self.plan.repeats > 1:
            parts.ledger.step(record.GATE_REPEATED, self.gatekeeper.sees)
        mean = asdict(estimate(self.gate_rewards[first.id]))
        values = [task.metric.reward(each.reward) for each in (*searched, *gated) if each.outcome == "ok"]
        ended = summary(map(vars, (*searched, *gated)))
        sees = {**self.gatekeeper.sees(), "narrow": narrow(values, task.metric.bounds), "outcomes": ended}
        parts.emit("run.drafted", agent=first.id, gate=mean, **sees)
        return first

    def generation(self, index: int) -> str:
        """One generation, steps 1 to 6 of the design. Returns why the run should stop, or an empty string.
        Steps 1 to 3, rolling the parents out on the search sample, were done when each entered the archive.
        """
        if self.parts.budget.left("seconds") <= 0:
            return "the time is spent"
        if self.parts.approval and not self.parts.approval.generation(index):
            return "another generation was declined"
        if why := self.gatekeeper.begin(index, self.incumbent, self.gate_rewards[self.incumbent]):
            return why
        self.look()
        decisions = self.decide(index)
        changes = [each for each in decisions if not isinstance(each, Stop)]
        if not changes:
            return " ".join(each.reason for each in decisions if isinstance(each, Stop))
        candidates = self.apply(index, changes)
        self.judge(index, candidates)
        return "the budget is spent" if all(each.out_of_budget for each in candidates) else ""

    def look(self) -> None:
        """Have the levers look at the agents that may well be changed next."""
        for agent in self.likely_parents():
            self.look_at(agent)

    def likely_parents(self) -> list[AgentView]:
        """The incumbent, and what earned more than it on search."""
        least = self.agents[self.incumbent].estimate
        return [each for each in self.agents.values() if each.id == self.incumbent or each.estimate > least]

    def look_at(self, agent: AgentView) -> AgentView:
        """The agent with what the levers see in it, which they look for once."""
        if agent.id not in self.seen:
            self.seen.add(agent.id)
            self.agents[agent.id] = self.runner.looked_at(agent)
        return self.agents[agent.id]

    def decide(self, generation: int) -> list[Decision]:
        """Step 4: what to change next, typed and recorded."""
        evidence = self.evidence(generation)

        def work() -> Any:
            with self._improver():
                decisions = DECISIONS.validate_python(list(self.parts.improver.decide(evidence)))
            return DECISIONS.dump_python(decisions, mode="json")

        key = record.decided(generation)
        return DECISIONS.validate_python(self._booked(key, work))

    def evidence(self, generation: int) -> Evidence:
        """Everything that the improver may know."""
        task, budget = self.parts.task, self.parts.budget
        evidence = Evidence(
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
            smallest_gain=self.gatekeeper.smallest_gain(generation * self.plan.candidates),
            # As if no gate sweep had been stopped early: when one was is the gate's, and not to be told.
            budget_left={kind: budget.left(kind) - self.saved.get(kind, 0.0) for kind in budget.limit.amounts},
            look=self.runner.cost.kinds,
            discovers=task.kind == "discover",
        )
        for name, lever in self.parts.levers.items():
            with faults_of(f"the {name} lever"):
                evidence = lever.describe(evidence)
        return evidence

    def apply(self, generation: int, decisions: Sequence[Change]) -> list[Candidate]:
        """Step 5: the candidate agents, made by their levers, smoke-run, and rolled out on search and gate."""
        planned: list[Candidate] = []
        for index, decision in enumerate(decisions):
            planned.append(self.runner.afford(self._plan(index, decision), len(decisions) - index))
        if approval := self.parts.approval:
            planned = approval.candidates(generation, planned, self.runner.cost)
        return self.attempt(generation, planned)

    def attempt(self, generation: int, planned: Sequence[Candidate]) -> list[Candidate]:
        """Several candidates at once, but where a lever needs the policy to itself."""
        alone = any(self.parts.levers[each.decision.lever].exclusive for each in planned if not each.refused)
        threads = ThreadPoolExecutor(1 if alone else len(planned), thread_name_prefix="sia-candidate")
        try:
            return list(threads.map(lambda each: self.runner.attempt(generation, each), planned))
        except BaseException:
            self.parts.rollouts.stop()  # what the other candidates wait for need not be awaited
            raise
        finally:
            threads.shutdown()

    def judge(self, generation: int, candidates: Sequence[Candidate]) -> None:
        """Step 6: compare each candidate with the incumbent of that moment; promote what is better."""
        for candidate in candidates:
            comparison = None
            if candidate.agent and (candidate.rewards or candidate.screened):
                self._enter(candidate.agent)
            if candidate.agent and candidate.rewards:
                self.gate_rewards[candidate.agent.id] = candidate.rewards
                incumbent = self.gate_rewards[self.incumbent]
                comparison = self.gatekeeper.judge(candidate.index, incumbent, candidate.rewards)
            trial = self._trial(generation, candidate, comparison)
            row = self._row(candidate, trial, comparison)
            row = self.parts.ledger.step(record.gated(generation, candidate.index), partial(dict, row))
            self.parts.emit("candidate.gated", **row)
            # The record counts, also where today's code would judge otherwise.
            trial = replace(trial, outcome=row["outcome"], gain=row["gain"], why=row.get("verdict", trial.why))
            self.trials.append(trial)
            self.gatekeeper.book(row, candidate.searched)
            self.saved = {kind: amount + candidate.saved.get(kind, 0.0) for kind, amount in self.saved.items()}
            if trial.outcome == "promoted" and trial.agent:
                self.incumbent = trial.agent
                self.runner.keep(self.agents[self.first], self.agents[trial.agent])

    def seal(self, first: AgentView, why: str) -> None:
        """Step 7: close the run; only then score the first and the final agent, once, on the sealed split."""
        parts, final = self.parts, self.agents[self.incumbent]
        about = {"initial": first.harness, "final": final.harness, "adapter": final.adapter}
        parts.ledger.step(record.CLOSED, lambda: {"why": why, **about})
        ends = {"initial": first, "final": final}
        with self._timed(record.SEAL):
            if self.samples.evaluations:
                score_answers(parts, self.runner.answers, self.samples, ends, why)
                sealed: Mapping[str, Sequence[float]] = {}
            else:
                sealed = score_agents(parts, self.runner, ends, self.gate_rewards, why)
        with self._timed(record.ROBUSTNESS):
            holds = robustness(parts, self.runner, self.samples, self.history(first), self.gate_rewards, sealed)
            parts.ledger.step(record.ROBUSTNESS, lambda: holds)
        parts.ledger.step(record.FINISHED, lambda: {"spent": parts.budget.spent})
        parts.emit("run.finished", final=final.id)

    def history(self, first: AgentView) -> list[AgentView]:
        """The incumbents, in order."""
        promoted = [trial.agent for trial in self.trials if trial.outcome == "promoted" and trial.agent]
        return [first, *(self.agents[agent] for agent in promoted)]

    def _plan(self, index: int, decision: Change) -> Candidate:
        parent = self.agents.get(decision.parent or self.incumbent)
        if parent is None:
            gone = f"no agent {decision.parent!r} in the archive"
            return Candidate(index, decision, self.agents[self.incumbent], refused=gone)
        if decision.lever != "harness":
            parent = self.look_at(parent)
        return self.runner.plan(index, decision, parent)

    def _enter(self, agent: AgentView) -> None:
        self.agents[agent.id] = agent
        self.runner.answers.enter(agent.id)

    def _trial(self, generation: int, candidate: Candidate, comparison: Comparison | None) -> Trial:
        decision, parent, agent = candidate.decision, candidate.parent, candidate.agent
        entered = agent if comparison or candidate.screened else None
        if comparison:
            outcome, why = "promoted" if comparison.better else "rejected", comparison.report
        elif candidate.screened:
            outcome, why = "screened", candidate.screened
        else:
            outcome, why = "failed" if candidate.failed else "refused", candidate.failed or candidate.refused
        return Trial(
            generation=generation,
            lever=decision.lever,
            name=decision.name,
            algorithm=decision.algorithm,
            parent=parent.id,
            agent=entered.id if entered else None,
            reason=decision.reason,
            predicted=decision.prediction.gain,
            outcome=outcome,
            why=why,
            gain=entered.estimate - parent.estimate if entered else None,
            table=candidate.plan.table,
            against=self.incumbent if comparison else None,
        )

    def _row(self, candidate: Candidate, trial: Trial, comparison: Comparison | None) -> dict[str, Any]:
        """A candidate's row in the report: its trial, and the gate's figures, which improvers are not shown."""
        return {
            **asdict(trial),
            "accepted": trial.outcome == "promoted",
            "verdict": trial.why,
            "why": comparison.why if comparison else trial.why,
            "harness": candidate.agent.harness if candidate.agent else None,
            "adapter": candidate.agent.adapter if candidate.agent else None,
            "gate": asdict(comparison) if comparison else None,
            "against_parent": self._against_parent(candidate) if comparison else None,
            "estimate": dict(candidate.plan.estimate),
            "took": dict(candidate.result.took),
            "stopped": candidate.result.stopped,
        }

    def _against_parent(self, candidate: Candidate) -> dict[str, Any] | None:
        """The change on the gate against the candidate's own parent, where that is not the incumbent."""
        before = self.gate_rewards.get(candidate.parent.id, ())
        if candidate.parent.id == self.incumbent or not before:
            return None
        return asdict(normal([b - a for a, b in zip(before, candidate.rewards, strict=False)]))

    def _booked(self, key: str, work: Callable[[], Any]) -> Any:
        """A step whose work spends by itself: the amounts are recorded too, for a resumed run to book."""
        ledger, budget, before = self.parts.ledger, self.parts.budget, None

        def working() -> Any:
            nonlocal before
            before = budget.spent
            value = work()
            spent = {kind: amount - before[kind] for kind, amount in budget.spent.items() if amount != before[kind]}
            if spent:
                ledger.step(record.spent(key), lambda: spent)
            return value

        value = ledger.step(key, working)
        if before is None:
            budget.settle({}, (ledger.get(record.spent(key)) or ({},))[0])
        return value

    def _improver(self) -> AbstractContextManager[None]:
        """Faults of the improver are raised under its name."""
        return faults_of(f"the improver ({type(self.parts.improver).__qualname__})")

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Book the seconds of a part of the run; recorded, so that a resumed run stops where the first would have."""
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 3)
        self.parts.budget.settle({}, {"seconds": self.parts.ledger.step(record.seconds(what), lambda: seconds)})
