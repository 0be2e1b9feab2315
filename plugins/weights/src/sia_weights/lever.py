"""The weight lever of a run: what it can do, what it refuses beforehand and why, what it will cost, and the pulling."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from sia_core.decision import Training, UpdateWeights
from sia_core.errors import SiaError
from sia_core.evidence import AgentView, AlgorithmView, Evidence, Rollout, WeightsView
from sia_core.learning import Learner
from sia_core.run import record
from sia_core.run.allowance import Allowance
from sia_core.run.budget import Cost
from sia_core.run.levers import Lever, LeverRun, Looked, NewAgent, Pull, PullPlan, PullResult
from sia_core.run.record import RunRecord
from sia_core.run.rollouts import Solving, Sweep
from sia_core.run.trees import adapter_folder
from sia_core.types import OfferRef
from sia_weights.exploration import EXPLORED, GROUP, Exploration, fitted
from sia_weights.past import past_updates
from sia_weights.replies import exploration_of, reply, training_of
from sia_weights.selection import verdict
from sia_weights.update import Update
from sia_weights.user_settings import UserSettings


class WeightLever(Lever):
    """Explores agents, says what training them would take and meet, and trains them, all through the ledger."""

    exclusive = True

    def __init__(self, **settings: Any) -> None:
        self._settings = UserSettings.of(settings)

    def look_cost(self, instances: int) -> Cost:
        explored = GROUP * min(EXPLORED, instances)
        return Cost(explored, explored)

    def pull_cost(self, instances: int, suits: int = 0) -> Cost:
        rollouts = self._settings.over(fitted(Training(), suits)).rollouts(instances)
        return Cost(rollouts, rollouts)

    def begin(self, run: LeverRun) -> None:
        super().begin(run)
        self._instances = len(run.training)
        self._explorations: dict[str, Exploration] = {}

    @property
    def refused(self) -> str:
        if "train" not in self.run.can:
            return "the policy cannot be trained: its engine only samples from it"
        return ""

    def look(self, agent: AgentView, allowance: Allowance) -> Looked:
        """Explore the agent: the distribution of its rewards at the training temperature. Recorded, so done once."""
        run = self.run
        sweep = Sweep(
            "explore",
            agent.id,
            agent.harness,
            "search",
            run.training[:EXPLORED],
            adapter=agent.adapter,
            group=GROUP,
            training=True,
            starts=run.starts(len(run.search))[:EXPLORED],
        )
        sweep = replace(sweep, tokens=allowance.share(sweep.total))
        about = {"purpose": sweep.purpose, "agent": agent.id, "total": sweep.total}
        run.emit("rollouts.started", **about)
        learners = [offer.name for offer in run.plugins.of_kind("algorithm")]
        payload = {"sweep": asdict(sweep), "learners": learners}
        watch = Solving(run.emit, **about).of(0)
        work = partial(run.rollouts.job, "sia_weights.explore_job:explore", payload, watch)
        exploration = exploration_of(run.ledger.step(record.explored(agent.id), partial(reply, work, exploration_of)))
        allowance.settle(sweep.tokens, sweep.total, exploration.tokens * exploration.rollouts, exploration.peak)
        self._explorations[agent.id] = exploration
        run.emit("rollouts.progress", **about, done=about["total"], mean=exploration.stats.mean)
        spent = {"rollouts": exploration.rollouts, "verifications": exploration.verifications}
        return Looked(replace(agent, exploration=exploration.stats), spent)

    def describe(self, evidence: Evidence) -> Evidence:
        """The evidence with what can train, what the policy is, and what earlier updates did."""
        policy = next((dict(each.policy) for each in self._explorations.values() if each.policy), {})
        data = {"policy": policy, "updates": past_updates(evidence.trials, RunRecord(self.run.ledger))}
        trains = replace(evidence, algorithms=self._algorithms(), weights=WeightsView(self.refused))
        return trains.with_lever("weights", "Trains the policy.", data)

    def objection(self, decision: UpdateWeights) -> str:
        """Why no agent can be trained like that: wrong settings of the learner, or an engine that cannot."""
        try:
            learner = self._learner(decision.algorithm, decision.config)
        except SiaError as error:
            if not isinstance(error.__cause__, ValidationError):
                return str(error)
            faults = (f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.__cause__.errors())
            return f"{decision.algorithm} does not take these settings: {'; '.join(faults)}"
        if missing := sorted(learner.needs - self.run.can):
            return f"{decision.algorithm} needs an engine that can {', '.join(missing)}, and this run's cannot"
        return ""

    def plan(self, decision: UpdateWeights, parent: AgentView) -> PullPlan:
        table = self._table(parent)
        if reason := self._refusal(decision, parent):
            return PullPlan(refused=reason, table=table)
        epochs = self._learner(decision.algorithm, decision.config).epochs
        exploration, training = self._explorations[parent.id], self._settings.within(decision.training)
        estimate = exploration.estimate(decision.algorithm, training, epochs, self._instances)
        return PullPlan(estimate=estimate, table=table)

    def apply(self, pull: Pull, allowance: Allowance) -> PullResult:
        """Train: every few steps are a step of the ledger, and a snapshot of which the last stays.

        It ends early where the allowance has no more tokens for a step. In a task to ``discover``
        rollouts begin with earlier answers in turn.
        """
        run, decision, parent = self.run, pull.decision, pull.parent
        key = record.update(pull.generation, pull.candidate)
        run.ledger.step(record.estimate(key), lambda: dict(pull.plan.estimate))
        algorithm = OfferRef(decision.algorithm, dict(decision.config))
        run.emit("training.started", generation=pull.generation, algorithm=algorithm.name, **pull.plan.estimate)
        starts = run.starts(len(run.search))
        held_out = tuple(sorted({*run.search} - {*run.training}))
        training = self._settings.within(decision.training)
        update = Update(key, parent.id, parent.harness, parent.adapter, algorithm, training, starts, held_out)
        return self._trained(update, parent, allowance)

    def _trained(self, update: Update, parent: AgentView, allowance: Allowance) -> PullResult:
        run, training = self.run, update.training
        adapter, silent, stopped = parent.adapter, 0, ""
        spent = dict.fromkeys(("rollouts", "verifications", "tokens"), 0.0)
        took = {"steps": 0.0, "seconds": 0.0, "memory": 0.0}
        best: list[Rollout] = []
        others = self._others(update) | {parent.adapter}
        run.emit("rollouts.started", **self._sweep(update))
        for first in range(0, training.steps, training.durable):
            last = min(first + training.durable, training.steps)
            seconds = min(run.budget.left("seconds"), training.seconds or math.inf) - took["seconds"]
            payload = {
                "update": update.to_json(),
                "adapter": adapter,
                "first": first,
                "last": last,
                "silent": silent,
                "tokens": None if math.isinf(allowance.left) else int(allowance.left),
                "seconds": None if math.isinf(seconds) else seconds,
            }
            work = partial(run.rollouts.job, "sia_weights.train_job:train", payload, partial(self._stepped, update))
            check = partial(training_of, first=first, last=last)
            chunk = check(run.ledger.step(record.training(update.key, first), partial(reply, work, check)))
            for kind in spent:
                spent[kind] += sum(row[kind] for row in chunk["steps"])
            allowance.settle(None, 0, sum(row["tokens"] for row in chunk["steps"]))
            took = {
                "steps": took["steps"] + len(chunk["steps"]),
                "seconds": took["seconds"] + chunk["seconds"],
                "memory": chunk["memory"].get("peak", 0.0),
            }
            best += [Rollout.from_json(each) for row in chunk["steps"] for each in row.get("found", ())]
            self._progress(update, last, chunk)
            if chunk["adapter"] != adapter:
                self._drop(adapter, others)
            adapter, silent, stopped = chunk["adapter"], chunk["silent"], chunk["stopped"]
            if stopped:
                break
        result = PullResult(stopped=stopped, spent=spent, took={**spent, **took}, rollouts=tuple(best))
        if adapter == parent.adapter:
            return replace(result, failed=f"training failed: {stopped or 'nothing was learned'}")
        return replace(result, agent=NewAgent(parent.files, adapter))

    def _refusal(self, decision: UpdateWeights, parent: AgentView) -> str:
        """Why this update is not worth starting, before anything is spent on it; empty if it is."""
        if objection := self.objection(decision):
            return objection
        exploration = self._explorations.get(parent.id)
        if exploration is None:
            return f"the budget is too small to explore agent {parent.id} first"
        if exploration.fault:
            return exploration.fault
        return "; ".join(self._learner(decision.algorithm, decision.config).objections(exploration.stats))

    def _algorithms(self) -> tuple[AlgorithmView, ...]:
        """The learners that this run's engine can train with, and what they object to each explored agent."""
        views = []
        for offer in self.run.plugins.of_kind("algorithm"):
            learner = self._learner(offer.name, {})
            if learner.needs <= self.run.can:
                objections = {
                    agent: (exploration.fault,) if exploration.fault else tuple(learner.objections(exploration.stats))
                    for agent, exploration in self._explorations.items()
                }
                training = {
                    agent: self._settings.over(fitted(learner.training(exploration.stats), exploration.suits))
                    for agent, exploration in self._explorations.items()
                }
                costs = {
                    agent: exploration.estimate(offer.name, training[agent], learner.epochs, self._instances)
                    for agent, exploration in self._explorations.items()
                }
                needs = tuple(sorted(learner.needs))
                views.append(AlgorithmView(offer.name, offer.summary, needs, objections, training, costs))
        return tuple(views)

    def _table(self, agent: AgentView) -> str:
        """The selection table's verdict on an agent, for the record."""
        if agent.exploration is None:
            return ""
        return verdict(agent.exploration, [offer.name for offer in self.run.plugins.of_kind("algorithm")])

    def _learner(self, name: str, config: Mapping[str, Any]) -> Learner:
        learner: Learner = self.run.plugins.create("algorithm", name, **config)
        return learner

    def _progress(self, update: Update, step: int, chunk: Mapping[str, Any]) -> None:
        """Tell of some steps: as rollouts, and with all that a learner's curves are drawn from."""
        rows = chunk["steps"]
        mean = fmean(row["reward"] for row in rows) if rows else None
        self.run.emit("rollouts.progress", **self._sweep(update), done=self._rolled(update, step), mean=mean)
        self.run.emit("training.progress", key=update.key, algorithm=update.algorithm.name, steps=rows)

    def _stepped(self, update: Update, figures: Mapping[str, Any]) -> None:
        """Tell of a step as it is done. A worker reports it, so only what is a number is passed on."""
        step, reward, seconds = (figures.get(name) for name in ("step", "reward", "seconds"))
        steps = update.training.steps
        if isinstance(step, int) and 0 <= step < steps and isinstance(reward, float) and isinstance(seconds, float):
            rollouts = self._rolled(update, step + 1)
            about = {**self._sweep(update), "done": rollouts, "step": step + 1, "steps": steps}
            self.run.emit("training.step", **about, reward=reward, seconds=seconds)

    def _sweep(self, update: Update) -> dict[str, Any]:
        return {"purpose": "train", "agent": update.agent, "total": update.training.rollouts(self._instances)}

    def _rolled(self, update: Update, steps: int) -> int:
        return update.training.model_copy(update={"steps": steps}).rollouts(self._instances)

    def _others(self, update: Update) -> set[str]:
        """The snapshots that other steps of the run name: agents have them, or candidates that wait for a verdict."""
        rows = (row for key, row, _ in self.run.ledger.events() if not key.startswith(f"{update.key}/"))
        return {row["adapter"] for row in rows if isinstance(row, dict) and isinstance(row.get("adapter"), str)}

    def _drop(self, adapter: str | None, others: Collection[str | None]) -> None:
        """Remove a snapshot that the next has replaced, if it is this update's alone: a worker may name another's."""
        if adapter is not None and adapter not in others and not self.run.ledger.readonly:
            shutil.rmtree(adapter_folder(self.run.ledger.folder, adapter), ignore_errors=True)
