"""The weight lever of a run: what it can do, what it refuses beforehand and why, what it will cost, and the pulling."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from sia_core.allowance import Allowance
from sia_core.budget import Budget
from sia_core.decision import UpdateWeights
from sia_core.errors import SiaError
from sia_core.evidence import AgentView, AlgorithmView, RewardStats, Rollout
from sia_core.explore import EXPLORED, GROUP, Exploration
from sia_core.learning import Learner
from sia_core.ledger import Ledger
from sia_core.observe import Emitter
from sia_core.plugins import Plugins
from sia_core.policy import ADAPTERS
from sia_core.rollout import Rollouts, Sweep
from sia_core.selection import verdict
from sia_core.train import Update
from sia_core.types import Json, OfferRef


@dataclass(frozen=True)
class Trained:
    """What an update came to: an adapter, None where nothing was learned; and why it ``stopped`` early, if it did.

    ``spent`` is what the budget counts, ``took`` what stands beside the estimate. In a task of kind
    ``discover``, ``found`` are the best rollouts of each step.
    """

    adapter: str | None
    stopped: str
    spent: Mapping[str, float]
    took: Mapping[str, float]
    found: Sequence[Rollout] = ()


class WeightLever:
    """Explores agents, says what training them would take and meet, and trains them, all through the ledger.

    ``can`` is what the run's engine can do, ``instances`` how many it may train on.
    """

    def __init__(
        self,
        can: frozenset[str],
        instances: int,
        plugins: Plugins,
        rollouts: Rollouts,
        ledger: Ledger,
        budget: Budget,
        emit: Emitter,
    ) -> None:
        self._can, self._instances, self._plugins = can, instances, plugins
        self._rollouts, self._ledger, self._budget, self._emit = rollouts, ledger, budget, emit
        self._explorations: dict[str, Exploration] = {}

    @property
    def refused(self) -> str:
        """Why no agent of this run can be trained; empty if they can."""
        if "train" not in self._can:
            return "the policy cannot be trained: its engine only samples from it"
        return ""

    def explore(
        self, agent: AgentView, instances: Sequence[str], allowance: Allowance, starts: tuple[Json, ...] = ()
    ) -> RewardStats:
        """How the agent's rewards are distributed at the training temperature; recorded, so done once."""
        sweep = Sweep(
            "explore",
            agent.id,
            agent.harness,
            "search",
            tuple(instances[:EXPLORED]),
            adapter=agent.adapter,
            group=GROUP,
            training=True,
            starts=starts[:EXPLORED],
        )
        sweep = replace(sweep, tokens=allowance.share(sweep.total))
        about = {"purpose": sweep.purpose, "agent": agent.id, "total": sweep.total}
        self._emit("rollouts.started", **about)
        learners = [offer.name for offer in self._plugins.of_kind("algorithm")]
        work = partial(self._rollouts.job, "sia_core.explore:explore", {"sweep": asdict(sweep), "learners": learners})
        found = self._ledger.step(f"explore/{agent.id}", work)
        exploration = Exploration(**{**found, "stats": RewardStats(**found["stats"])})
        allowance.settle(sweep.tokens, sweep.total, exploration.tokens * exploration.rollouts, exploration.peak)
        self._explorations[agent.id] = exploration
        self._emit("rollouts.progress", **about, done=about["total"], mean=exploration.stats.mean)
        return exploration.stats

    def spent(self, agent: AgentView) -> dict[str, float]:
        """What exploring the agent took, beside tokens."""
        found = self._explorations[agent.id]
        return {"rollouts": found.rollouts, "verifications": found.verifications}

    def refusal(self, decision: UpdateWeights, parent: AgentView) -> str:
        """Why this update is not worth starting, before anything is spent on it; empty if it is."""
        if self.refused:
            return self.refused
        try:
            learner = self._learner(decision.algorithm, decision.config)
        except SiaError as error:
            return str(error)
        if missing := sorted(learner.needs - self._can):
            return f"{decision.algorithm} needs an engine that can {', '.join(missing)}, and this run's cannot"
        exploration = self._explorations[parent.id]
        if exploration.fault:
            return exploration.fault
        return "; ".join(learner.objections(exploration.stats))

    def estimate(self, decision: UpdateWeights, parent: AgentView) -> dict[str, float]:
        """Rollouts, tokens, seconds and memory that the update will take, from what exploring its parent took."""
        algorithm, epochs = decision.algorithm, self._learner(decision.algorithm, decision.config).epochs
        return self._explorations[parent.id].estimate(algorithm, decision.training, epochs, self._instances)

    def algorithms(self) -> tuple[AlgorithmView, ...]:
        """The learners that this run's engine can train with, and what they object to each explored agent."""
        views = []
        for offer in self._plugins.of_kind("algorithm"):
            learner = self._learner(offer.name, {})
            if learner.needs <= self._can:
                objections = {
                    agent: (found.fault,) if found.fault else tuple(learner.objections(found.stats))
                    for agent, found in self._explorations.items()
                }
                training = {agent: learner.training(found.stats) for agent, found in self._explorations.items()}
                costs = {
                    agent: found.estimate(offer.name, training[agent], learner.epochs, self._instances)
                    for agent, found in self._explorations.items()
                }
                needs = tuple(sorted(learner.needs))
                views.append(AlgorithmView(offer.name, offer.summary, needs, objections, training, costs))
        return tuple(views)

    def table(self, agent: AgentView) -> str:
        """What the selection table says of an agent, for the record."""
        if agent.exploration is None:
            return ""
        return verdict(agent.exploration, [offer.name for offer in self._plugins.of_kind("algorithm")])

    def train(
        self,
        key: str,
        decision: UpdateWeights,
        parent: AgentView,
        allowance: Allowance,
        starts: tuple[Json, ...] = (),
    ) -> Trained:
        """Pull the lever: every few steps are a step of the ledger, and a snapshot of which the last stays.

        It ends early where the allowance has no more tokens for a step. Rollouts begin with the ``starts`` in turn.
        """
        training = decision.training
        algorithm = OfferRef(decision.algorithm, dict(decision.config))
        update = Update(key, parent.id, parent.harness, parent.adapter, algorithm, training, starts)
        adapter, silent, stopped = parent.adapter, 0, ""
        spent = dict.fromkeys(("rollouts", "verifications", "tokens"), 0.0)
        took = {"steps": 0.0, "seconds": 0.0, "memory": 0.0}
        found: list[Rollout] = []
        self._emit("rollouts.started", **self._sweep(update))
        for first in range(0, training.steps, training.durable):
            last = min(first + training.durable, training.steps)
            seconds = min(self._budget.left("seconds"), training.seconds or math.inf) - took["seconds"]
            payload = {
                "update": update.to_json(),
                "adapter": adapter,
                "first": first,
                "last": last,
                "silent": silent,
                "tokens": None if math.isinf(allowance.left) else int(allowance.left),
                "seconds": None if math.isinf(seconds) else seconds,
            }
            done = self._ledger.step(f"{key}/{first:05d}", partial(self._rollouts.job, "sia_core.train:train", payload))
            for kind in spent:
                spent[kind] += sum(row[kind] for row in done["steps"])
            allowance.settle(None, 0, sum(row["tokens"] for row in done["steps"]))
            took = {
                "steps": took["steps"] + len(done["steps"]),
                "seconds": took["seconds"] + done["seconds"],
                "memory": done["memory"].get("peak", 0.0),
            }
            found += [Rollout.from_json(each) for row in done["steps"] for each in row.get("found", ())]
            self._progress(update, last, done)
            if done["adapter"] != adapter:
                self._drop(adapter, parent)
            adapter, silent, stopped = done["adapter"], done["silent"], done["stopped"]
            if stopped:
                break
        return Trained(adapter if adapter != parent.adapter else None, stopped, spent, {**spent, **took}, found)

    def _learner(self, name: str, config: Mapping[str, Any]) -> Learner:
        learner: Learner = self._plugins.create("algorithm", name, **config)
        return learner

    def _progress(self, update: Update, done: int, chunk: Mapping[str, Any]) -> None:
        """Tell of some steps: as rollouts, and with all that a learner's curves are drawn from."""
        rows = chunk["steps"]
        mean = fmean(row["reward"] for row in rows) if rows else None
        self._emit("rollouts.progress", **self._sweep(update), done=self._rolled(update, done), mean=mean)
        self._emit("training.progress", key=update.key, algorithm=update.algorithm.name, steps=rows)

    def _sweep(self, update: Update) -> dict[str, Any]:
        return {"purpose": "train", "agent": update.agent, "total": update.training.rollouts(self._instances)}

    def _rolled(self, update: Update, steps: int) -> int:
        return update.training.model_copy(update={"steps": steps}).rollouts(self._instances)

    def _drop(self, adapter: str | None, parent: AgentView) -> None:
        """Remove a snapshot that the next has replaced."""
        if adapter is not None and adapter != parent.adapter and not self._ledger.readonly:
            shutil.rmtree(self._ledger.folder / ADAPTERS / adapter, ignore_errors=True)
