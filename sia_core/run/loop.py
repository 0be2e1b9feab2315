"""The loop: roll out, summarise, decide, apply, gate; again; then seal.

Every step goes through the ledger, so a run that was stopped anywhere is gone on
with by calling :meth:`Loop.improve` again: what is recorded is not done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from sia_core.candidate import Candidate, Evaluator, Parts, make_agent
from sia_core.decision import DECISIONS, RewriteHarness, Stop, UpdateWeights
from sia_core.desk import booked, equip
from sia_core.errors import SiaError
from sia_core.evidence import AgentView, Evidence, TaskView, Trial, WeightsView, excerpt
from sia_core.gate import Comparison, compare
from sia_core.intervals import estimate
from sia_core.plan import Plan, check_budget, take_samples
from sia_core.power import DISCORDANCE, repeated, sees
from sia_core.robustness import robustness
from sia_core.sealing import score_agents, score_answers
from sia_core.sequential import means, within


class Loop:
    """One run. The methods stand in the order in which a generation calls them."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        self.plan, self.parts = plan, parts
        self.samples = take_samples(parts.task, plan)
        self.evaluator = Evaluator(parts, self.samples, plan.levers, plan.candidates, plan.alpha)
        self.agents: dict[str, AgentView] = {}
        self.gate_rewards: dict[str, tuple[float, ...]] = {}
        self.trials: list[Trial] = []
        self.tried: set[str] = set()
        self.incumbent = self.first = ""
        equip(parts, self.samples)
        self.discordance = DISCORDANCE
        self.saved = dict.fromkeys(("rollouts", "verifications", "tokens"), 0.0)

    def improve(self) -> None:
        """Run to the end: every generation, then the sealed score."""
        check_budget(self.samples, self.evaluator.cost, self.parts.budget.limit)
        self.parts.ledger.step("gate", self.sees)
        kept = self.samples.report.kinds
        self.parts.budget.reserve(**kept)  # the report is paid for first
        with self._timed("draft"):
            first = self.draft()
        why = ""
        for generation in range(self.plan.generations):
            self.parts.emit("generation.started", index=generation, incumbent=self.incumbent)
            with self._timed(f"generation/{generation}"):
                why = self.generation(generation)
            if why:
                break
        self.parts.budget.settle(kept, {})
        self.seal(first, why or "all generations are done")

    def draft(self) -> AgentView:
        """The improver's first harness is the first incumbent. It must at least run."""
        parts, task = self.parts, self.parts.task
        seen = TaskView(
            task.name, task.kind, task.brief, task.metric, task.seed_harness(), task.public_dir(("public",))
        )

        def work() -> str:
            with self._improver():
                return parts.trees.put(parts.improver.draft(seen, self.plan.seed))

        drafted = make_agent(parts.trees.get(booked(parts.ledger, parts.budget, "draft", work)), None, None)
        first, gated = self.evaluator.first(drafted)
        rewards = [each.reward for each in gated]
        self._enter(first, means(rewards, self.plan.repeats))
        self.incumbent = self.first = first.id
        if self.plan.repeats > 1:
            noise = within(rewards, self.plan.repeats) / task.metric.span**2
            self.discordance = repeated(noise, self.plan.repeats)
            parts.ledger.step("gate/repeated", self.sees)
        mean = asdict(estimate(self.gate_rewards[first.id]))
        parts.emit("run.drafted", agent=first.id, gate=mean, **self.sees())
        return first

    def generation(self, index: int) -> str:
        """One generation, steps 1 to 6 of the design. Returns why the run should stop, or an empty string.

        Steps 1 to 3, rolling the parents out on the search sample, were done when each entered the archive.
        """
        if self.parts.budget.left("seconds") <= 0:
            return "the time is spent"
        if self.parts.approval and not self.parts.approval.generation(index):
            return "another generation was declined"
        decisions = self.decide(index)
        changes = [each for each in decisions if not isinstance(each, Stop)]
        if not changes:
            return " ".join(each.reason for each in decisions if isinstance(each, Stop)) or "nothing was proposed"
        candidates = self.apply(index, changes)
        self.gate(index, candidates)
        return "the budget is spent" if all(each.out_of_budget for each in candidates) else ""

    def decide(self, generation: int) -> list[RewriteHarness | UpdateWeights | Stop]:
        """Step 4: what to change next, typed and recorded."""
        evidence = self.evidence(generation)

        def work() -> Any:
            with self._improver():
                decisions = DECISIONS.validate_python(list(self.parts.improver.decide(evidence)))
            return DECISIONS.dump_python(decisions, mode="json")

        key = f"generation/{generation}/decide"
        return DECISIONS.validate_python(booked(self.parts.ledger, self.parts.budget, key, work))

    def evidence(self, generation: int) -> Evidence:
        """Everything that the improver may know."""
        task, budget, lever = self.parts.task, self.parts.budget, self.parts.weights
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
            smallest_gain=self.sees()["smallest_gain"],
            # As if no gate sweep had been stopped early: when one was is the gate's, and not to be told.
            budget_left={kind: budget.left(kind) - self.saved.get(kind, 0.0) for kind in budget.limit.amounts},
            look=self.evaluator.cost.kinds,
            algorithms=lever.algorithms() if lever else (),
            weights=WeightsView(lever.refused) if lever else None,
            discovers=task.kind == "discover",
        )

    def apply(self, generation: int, decisions: Sequence[RewriteHarness | UpdateWeights]) -> list[Candidate]:
        """Step 5: the candidate agents, written or trained, smoke-run, and rolled out on search and gate."""
        planned: list[Candidate] = []
        for index, decision in enumerate(decisions):
            planned.append(self.evaluator.afford(self._plan(index, decision), len(decisions) - index))
        if approval := self.parts.approval:
            planned = approval.candidates(generation, planned, self.evaluator.cost)
        return self.attempt(generation, planned)

    def attempt(self, generation: int, planned: Sequence[Candidate]) -> list[Candidate]:
        """Several candidates at once, but where one of them trains: it needs the policy to itself."""
        incumbent = self.gate_rewards[self.incumbent]
        trains = any(isinstance(each.decision, UpdateWeights) and not each.refused for each in planned)
        threads = ThreadPoolExecutor(1 if trains else len(planned), thread_name_prefix="sia-candidate")
        try:
            return list(threads.map(lambda each: self.evaluator.attempt(generation, each, incumbent), planned))
        except BaseException:
            self.parts.rollouts.stop()  # what the other candidates wait for need not be awaited
            raise
        finally:
            threads.shutdown()

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
            row = self._row(candidate, trial, comparison)
            key = f"generation/{generation}/gated/{candidate.index}"
            row = self.parts.ledger.step(key, constant(row))
            self.parts.emit("candidate.gated", **row)
            # The record counts, also where today's code would judge otherwise.
            trial = replace(trial, outcome=row["outcome"], gain=row["gain"], why=row.get("verdict", trial.why))
            self.trials.append(trial)
            self.saved = {kind: amount + candidate.saved.get(kind, 0.0) for kind, amount in self.saved.items()}
            if trial.outcome == "promoted" and trial.agent:
                self.incumbent = trial.agent
                self.evaluator.keep(self.agents[self.first], self.agents[trial.agent])

    def seal(self, first: AgentView, why: str) -> None:
        """Step 7: close the run; only then score the first and the final agent, once, on the sealed split."""
        parts, final = self.parts, self.agents[self.incumbent]
        about = {"initial": first.harness, "final": final.harness, "adapter": final.adapter}
        parts.ledger.step("closed", lambda: {"why": why, **about})
        ends = {"initial": first, "final": final}
        with self._timed("seal"):
            if self.samples.evaluations:
                score_answers(parts, self.evaluator.answers, self.samples, ends, why)
                sealed: Mapping[str, Sequence[float]] = {}
            else:
                sealed = score_agents(parts, self.evaluator, ends, self.gate_rewards, why)
        with self._timed("robustness"):
            holds = robustness(parts, self.evaluator, self.samples, self.history(first), self.gate_rewards, sealed)
            parts.ledger.step("robustness", constant(holds))
        parts.ledger.step("finished", lambda: {"spent": parts.budget.spent})
        parts.emit("run.finished", final=final.id)

    def history(self, first: AgentView) -> list[AgentView]:
        """The incumbents, in order."""
        promoted = [trial.agent for trial in self.trials if trial.outcome == "promoted" and trial.agent]
        return [first, *(self.agents[agent] for agent in promoted)]

    def sees(self) -> dict[str, Any]:
        """The least gain, in units of the reward, that the gate sees with 80% power, and what would halve it."""
        return sees(len(self.samples.gate), self.plan.alpha, self.parts.task.metric.bounds, self.discordance)

    def _plan(self, index: int, decision: RewriteHarness | UpdateWeights) -> Candidate:
        parent = self.agents.get(decision.parent or self.incumbent)
        if parent is None:
            gone = f"no agent {decision.parent!r} in the archive"
            return Candidate(index, decision, self.agents[self.incumbent], refused=gone)
        candidate = self.evaluator.plan(index, decision, parent)
        if candidate.agent:
            if candidate.agent.id in self.tried:
                return replace(candidate, refused=f"the edits give agent {candidate.agent.id}, which was tried before")
            self.tried.add(candidate.agent.id)
        return candidate

    def _enter(self, agent: AgentView, rewards: Sequence[float]) -> None:
        self.agents[agent.id] = agent
        self.evaluator.answers.enter(agent.id)
        self.gate_rewards[agent.id] = tuple(rewards)
        self.tried.add(agent.id)

    def _trial(self, generation: int, candidate: Candidate, comparison: Comparison | None) -> Trial:
        decision, parent, agent = candidate.decision, candidate.parent, candidate.agent
        if comparison:
            outcome, why = "promoted" if comparison.better else "rejected", comparison.told
        else:
            outcome, why = "failed" if candidate.failed else "refused", candidate.failed or candidate.refused
        return Trial(
            generation=generation,
            lever=decision.lever,
            name=candidate.name,
            algorithm=decision.algorithm if isinstance(decision, UpdateWeights) else None,
            parent=parent.id,
            agent=agent.id if comparison and agent else None,
            reason=decision.reason,
            predicted=decision.prediction.gain,
            outcome=outcome,
            why=why,
            gain=agent.estimate - parent.estimate if comparison and agent else None,
            table=candidate.table,
        )

    def _row(self, candidate: Candidate, trial: Trial, comparison: Comparison | None) -> dict[str, Any]:
        """What the report tells of a candidate: the trial, and the gate's figures, which improvers are not shown."""
        return {
            **asdict(trial),
            "accepted": trial.outcome == "promoted",
            "verdict": trial.why,
            "why": comparison.why if comparison else trial.why,
            "harness": candidate.agent.harness if candidate.agent else None,
            "adapter": candidate.agent.adapter if candidate.agent else None,
            "gate": asdict(comparison) if comparison else None,
            "estimate": dict(candidate.estimate),
            "took": dict(candidate.took),
            "stopped": candidate.stopped,
        }

    @contextmanager
    def _improver(self) -> Iterator[None]:
        """Faults of the improver are raised under its name."""
        try:
            yield
        except SiaError:
            raise
        except Exception as error:
            name = type(self.parts.improver).__qualname__
            raise SiaError(f"the improver ({name}) failed: {type(error).__name__}: {excerpt(str(error))}") from error

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Book the seconds of a part of the run; recorded, so that a resumed run stops where the first would have."""
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 3)
        self.parts.budget.settle({}, {"seconds": self.parts.ledger.step(f"{what}/seconds", lambda: seconds)})


def constant(value: Any) -> Callable[[], Any]:
    """A step whose result is known already, and is only to be recorded."""
    return lambda: value
