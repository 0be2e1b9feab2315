"""The request to a run, the instances for each of its purposes, and whether a budget can pay for it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from sia_core.errors import UsageError
from sia_core.run.budget import Cost, Limit
from sia_core.run.discover import evaluations_of, rounds
from sia_core.run.gate import EARNED
from sia_core.run.levers import Lever
from sia_core.types import Split, Task

EVALUATED: tuple[Split, ...] = ("search", "gate", "sealed")
SMOKE_CASES = 2
PERTURBED = "perturbed"
"""The purpose of looking at sealed instances in another guise."""


@dataclass(frozen=True)
class Plan:
    """The request to a run: a pure value, recorded as its first step.

    ``earned`` is the error that a promotion earns for later comparisons; None in runs from before it was kept.
    """

    levers: tuple[str, ...] = ("harness",)
    generations: int = 8
    candidates: int = 2
    search_sample: int = 256
    seed: int = 0
    repeats: int = 1
    earned: float | None = EARNED

    @property
    def comparisons(self) -> int:
        """How often the gate may be asked."""
        return max(1, self.generations * self.candidates)


@dataclass(frozen=True)
class Samples:
    """The instances that each purpose takes, fixed for the run; those that decide, ``repeats`` times each.

    Agents are estimated on ``search``, of which nothing is in ``training``: what updates learn from.
    Where the task is to ``discover``, each rollout of smoke, search and gate may have ``evaluations`` answers scored.
    """

    smoke: tuple[str, ...]
    search: tuple[str, ...]
    gate: tuple[str, ...]
    sealed: tuple[str, ...]
    training: tuple[str, ...]
    repeats: int = 1
    evaluations: int = 0

    def of(self, purpose: str) -> tuple[tuple[str, ...], int]:
        """The instances of a purpose, and how often each is rolled out."""
        instances: tuple[str, ...] = getattr(self, "sealed" if purpose == PERTURBED else purpose)
        return instances, self.repeats if purpose in ("gate", "sealed", PERTURBED) else 1

    def evaluated(self, purpose: str) -> int:
        """The evaluations that a rollout of this purpose may ask for."""
        return self.evaluations if purpose in ("smoke", "search", "gate") else 0

    def cost(self, *purposes: str) -> Cost:
        """The most that rolling out one agent for these purposes takes."""
        rollouts = evaluations = 0
        for purpose in purposes:
            instances, repeats = self.of(purpose)
            rollouts += len(instances) * repeats
            evaluations += len(instances) * repeats * self.evaluated(purpose)
        return Cost(rollouts, rollouts + evaluations)

    @property
    def report(self) -> Cost:
        """The most that the sealed report takes: two agents, or the best answers of two."""
        if not self.evaluations:
            return self.cost("sealed", "sealed")
        compared = sum(most * len(instances) for most, instances in rounds(self.gate))
        return Cost(0, 2 * (compared + len(self.sealed)))

    @property
    def looking_back(self) -> Cost:
        """The cost of one look at how far a closed run's result holds."""
        return self.cost("gate" if self.evaluations else "sealed")

    def look(self, levers: Iterable[Lever] = ()) -> Cost:
        """The cost of looking at one agent, for the gate and for these levers."""
        costs = (lever.look_cost(len(self.search)) for lever in levers)
        return sum(costs, self.cost("smoke", "search", "gate"))


def check_budget(samples: Samples, once: Cost, limit: Limit) -> None:
    """UsageError where a budget does not even cover the first agent, ``once``, and the sealed report."""
    minimum = once + samples.report
    for kind, amount in minimum.kinds.items():
        if limit.amounts.get(kind, amount) < amount:
            raise UsageError(
                f"--budget {kind}={limit.amounts[kind]:g} is too small: the first agent and the sealed report "
                f"take {amount:g}, and each candidate {once.kinds[kind]:g} more"
            )


def take_samples(task: Task, plan: Plan) -> Samples:
    """The instances of every purpose: all of gate and sealed, a seeded sample of search; in a seeded random order.

    Where a lever may train, at most half of search is in the sample, and the other instances are for training.
    The order matters where a gate sweep is looked at early: it must say nothing of how hard an instance is.
    """
    search, gate, sealed = ([each.id for each in task.instances(split)] for split in EVALUATED)
    random.Random(f"search {plan.seed}").shuffle(search)
    random.Random(f"gate {plan.seed}").shuffle(gate)
    size = plan.search_sample
    trains = plan.levers != ("harness",) and plan.earned is not None and len(search) > 1
    if trains:
        size = min(size, len(search) // 2)
    sample, training = search[:size], search[size:] if trains else search
    return Samples(
        smoke=tuple(sample[:SMOKE_CASES]),
        search=tuple(sample),
        gate=tuple(gate),
        sealed=tuple(sealed),
        training=tuple(training),
        repeats=plan.repeats,
        evaluations=evaluations_of(task),
    )
