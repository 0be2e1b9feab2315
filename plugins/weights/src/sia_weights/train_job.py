"""One weight update, from rollouts to adapter: roll out, verify, credit, optimise, and again.

A few steps are one job of the backend and one step of the ledger, and end with a
snapshot (adapter, optimizer), so that a run which is stopped goes on from there.
What is sampled in a step is trained on in that step and never later.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from sia_core.errors import NoSignal, TrainingError
from sia_core.evidence import Rollout, reward_stats
from sia_core.learning import Datum, Engine, Learner, Sample, credited
from sia_core.run.allowance import Allowance
from sia_core.run.record import verified
from sia_core.run.rollouts import Setting, Sweep
from sia_runtime.reporting import report
from sia_runtime.worker.batch import Rolled, needs, policy_of, roll_out
from sia_runtime.worker.host import Host
from sia_runtime.worker.policy import Policy
from sia_weights.explore_job import divergence, samples, spread
from sia_weights.update import Update

SILENCE = 10
"""Steps on end without anything to learn from, after which an update stops."""

AT_ONCE = 2048
"""Rollouts that are verified together."""

KEPT = 2
"""Rollouts of a training step whose answers are kept."""

LAST_RATE = 0.1
"""The last step's share of the learning rate, to which it falls in a straight line: late steps should only refine."""


def train(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: some steps of an update, from the adapter that the last ones left to the next.

    What ends the update early is a result, ``stopped``, so that a resumed run hears the
    same. Steps that went wrong leave the adapter from before this job.
    """
    setting, update = Setting.from_json(payload["setting"]), Update.from_json(payload["update"])
    policy = policy_of(setting, host)
    started = time.monotonic()
    stopped, adapter = "", payload["adapter"]
    with policy.training(payload["adapter"]):
        course = Course(setting, update, host, policy, payload["silent"], payload["tokens"])
        try:
            for step in range(payload["first"], payload["last"]):
                course.step(step)
                report(step=step, reward=course.rows[-1]["reward"], seconds=course.rows[-1]["seconds"])
                late = payload["seconds"] is not None and time.monotonic() - started >= payload["seconds"]
                if stopped := "the time is spent" if late else course.stops(step):
                    break
            if policy.stepped_since:
                adapter = policy.keep()
        except TrainingError as error:
            stopped = str(error)
    return {
        "adapter": adapter,
        "stopped": stopped,
        "steps": course.rows,
        "silent": course.silent,
        "seconds": round(time.monotonic() - started, 3),
        "memory": dict(policy.engine.memory()),
    }


class Course:
    """The steps of an update on the machine that trains. ``rows`` is what is worth watching, a step each."""

    def __init__(
        self, setting: Setting, update: Update, host: Host, policy: Policy, silent: int, tokens: int | None
    ) -> None:
        self.setting, self.update, self.host, self.policy = setting, update, host, policy
        self.allowance = Allowance(math.inf if tokens is None else tokens)
        self.learner: Learner = host.learner(update.algorithm)
        self.silent = silent
        self.rows: list[dict[str, Any]] = []
        self._checked = False

    def stops(self, index: int) -> str:
        """Why the steps up to this one are enough: no tokens left, or for long, or in a wide first look, no signal."""
        if self.allowance.short:
            return "the tokens are spent"
        wide = index == 0 and self.update.training.first_group is not None
        if self.silent and (wide or self.silent >= SILENCE):
            return f"zero signal in {self.silent} steps on end: {self.rows[-1]['silent']}"
        return ""

    def step(self, index: int) -> None:
        """Sample groups, credit them, optimise; TrainingError where that would be, or went, wrong."""
        started = time.monotonic()
        sweep = self._sweep(index)
        size = max(1, AT_ONCE // sweep.group)
        parts = [sweep.part(first, first + size) for first in range(0, len(sweep.instances), size)]
        rolled = [each for part in parts for each in self._rolled(part)]
        sampled = time.monotonic() - started
        rollouts = [each.rollout for each in rolled]
        task = self.host.task(self.setting.task)
        stats = reward_stats(rollouts, task.metric.reward(task.failure_reward))
        row: dict[str, Any] = {
            "step": index,
            "rollouts": len(rollouts),
            "verifications": verified(rollouts),
            "tokens": sum(each.tokens for each in rollouts),
            "reward": stats.mean,
            "flat_groups": stats.flat_groups,
            "sampling_seconds": round(sampled, 3),
        }
        if self.host.task(self.setting.task).kind == "discover":
            row["found"] = worth_keeping(rollouts)
        self.rows.append(row)
        try:
            if self.allowance.short:
                raise NoSignal("rollouts were cut short")
            with self.policy.gateway.exclusive() as engine:
                row.update(self._optimise(engine, index, self._groups(sweep, rolled)))
            self.silent = 0
        except NoSignal as nothing:
            self.silent += 1
            row["silent"] = str(nothing)
        row["seconds"] = round(time.monotonic() - started, 3)

    def _rolled(self, part: Sweep) -> list[Rolled]:
        """A part of a step's rollouts, within the tokens that are left."""
        part = replace(part, tokens=self.allowance.share(part.total))
        rolled, _ = roll_out(self.setting, part, self.host)
        used = sum(each.rollout.tokens for each in rolled)
        self.allowance.settle(part.tokens, part.total, used, **needs(rolled))
        return rolled

    def _sweep(self, index: int) -> Sweep:
        update, training = self.update, self.update.training
        names = sorted({*self.host.instances(self.setting.task, "search")} - {*update.held_out})
        instances = drawn(names, training.prompts, index, f"{self.setting.seed}/{update.key}")
        return Sweep(
            f"{update.key}/{index}",
            update.agent,
            update.harness,
            "search",
            instances,
            adapter=update.adapter,
            group=training.group_of(index),
            training=True,
            distinct=training.distinct,
            starts=tuple(islice(cycle(update.starts), index, index + len(instances))),
        )

    def _groups(self, sweep: Sweep, rolled: Sequence[Rolled]) -> list[list[Sample]]:
        """Groups by instance. TrainingError where a rollout is of other weights than those that will learn from it."""
        now = self.policy.version
        stale = {each.weights for each in rolled} - {now}
        if stale:
            raise TrainingError(f"stale rollouts: sampled with the weights {', '.join(stale)}, and now they are {now}")
        return samples(rolled, sweep)

    def _optimise(self, engine: Engine, index: int, groups: list[list[Sample]]) -> dict[str, Any]:
        learner, training = self.learner, self.update.training
        if not self._checked:
            engine.check(spread([trace for group in groups for each in group for trace in each.traces]))
            self._checked = True
        if "reference" in learner.needs:
            groups = _with_reference(engine, groups)
        data = credited(learner, groups)
        watched: Mapping[str, float] = {}
        rate = training.learning_rate or engine.learning_rate
        rate *= 1 - (1 - LAST_RATE) * index / max(1, training.steps - 1)
        for epoch in range(learner.epochs):
            for part in minibatches(data, training.minibatch, f"{self.update.key}/{index}/{epoch}"):
                watched = engine.forward_backward(part, learner.loss, learner.config.model_dump(mode="json"))
                stepped = engine.optim_step(lr=rate)
                self.policy.stepped()
        moved = self._moved(engine, data)
        return {"loss": watched["loss"], "surprise": _mean(watched, "surprise"), **stepped, "kl": moved}

    def _moved(self, engine: Engine, data: Sequence[Datum]) -> float:
        """How far this step moved the policy, in nats a token; TrainingError past the bound."""
        traces = spread([datum.trace for datum in data])
        moved = divergence(engine.logprobs(traces), traces)
        bound = self.update.training.max_kl
        if not moved <= bound:
            raise TrainingError(
                f"one step moved the policy by {moved:.3g} nats a token, past its bound of {bound:g}; "
                "lower the learning rate (training.learning_rate), or raise the bound (training.max_kl)"
            )
        return moved


def drawn(names: Sequence[str], count: int, step: int, seed: str) -> tuple[str, ...]:
    """The instances of a step, each once: pass after pass over all of them, in a new random order each time."""
    round_, place = divmod(step, -(-len(names) // count))
    order = list(names)
    random.Random(f"train {seed}/{round_}").shuffle(order)
    return tuple((order + order)[place * count :][: min(count, len(names))])


def minibatches(data: Sequence[Datum], size: int | None, seed: str) -> list[list[Datum]]:
    """The data in random parts of about ``size``, normalised as if each were all; pairs stay together."""
    if size is None or len(data) <= size:
        return [list(data)]
    units: dict[tuple[str, int], list[Datum]] = {}
    for place, datum in enumerate(data):
        units.setdefault(("alone", place) if datum.pair is None else ("pair", datum.pair), []).append(datum)
    order = list(units.values())
    random.Random(seed).shuffle(order)
    parts: list[list[Datum]] = [[]]
    for unit in order:
        if len(parts[-1]) >= size:
            parts.append([])
        parts[-1] += unit
    share = 1 / len(data)
    return [[replace(datum, normaliser=datum.normaliser * len(part) * share) for datum in part] for part in parts]


def worth_keeping(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """The best valid rollouts of a training step, as JSON: their answers may be the run's result."""
    valid = sorted((each for each in rollouts if each.outcome == "ok"), key=lambda each: -each.reward)
    return [each.to_json() for each in valid[:KEPT]]


def _with_reference(engine: Engine, groups: list[list[Sample]]) -> list[list[Sample]]:
    """The same samples with the base model's log-probabilities."""
    traces = [trace for group in groups for each in group for trace in each.traces]
    rows = iter(engine.logprobs(traces, reference=True))
    return [
        [replace(each, traces=[replace(trace, reference=next(rows)) for trace in each.traces]) for each in group]
        for group in groups
    ]


def _mean(watched: Mapping[str, float], name: str) -> float:
    return watched.get(name, 0.0) / max(1.0, watched.get("tokens", 1.0))
