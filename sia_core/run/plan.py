"""What a run is asked to do, which instances each of its purposes takes, and whether a budget can pay for it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sia_core.budget import Limit
from sia_core.discovering import evaluations_of, rounds
from sia_core.errors import UsageError
from sia_core.explore import EXPLORED, GROUP
from sia_core.gate import RUN_ALPHA
from sia_core.types import Split, Task

EVALUATED: tuple[Split, ...] = ("search", "gate", "sealed")
SMOKE_CASES = 2
PERTURBED = "perturbed"
"""The purpose of looking at sealed instances in another guise."""


@dataclass(frozen=True)
class Cost:
    """What a part of a run takes at most, in counts."""

    rollouts: float = 0.0
    verifications: float = 0.0

    @property
    def kinds(self) -> dict[str, float]:
        """The amounts by kind, as a budget counts them."""
        return {"rollouts": float(self.rollouts), "verifications": float(self.verifications)}

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.rollouts + other.rollouts, self.verifications + other.verifications)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.rollouts - other.rollouts, self.verifications - other.verifications)


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do: a pure value, recorded as its first step."""

    levers: tuple[str, ...] = ("harness",)
    generations: int = 8
    candidates: int = 2
    search_sample: int = 256
    seed: int = 0
    repeats: int = 1

    @property
    def alpha(self) -> float:
        """Each comparison's share of the error that the whole run may make."""
        return RUN_ALPHA / self.comparisons

    @property
    def comparisons(self) -> int:
        """How often the gate may be asked."""
        return max(1, self.generations * self.candidates)


@dataclass(frozen=True)
class Samples:
    """The instances that each purpose takes, fixed for the run; those that decide, ``repeats`` times each.

    Where the task is to ``discover``, each rollout on search and gate may have so many ``evaluations``.
    """

    smoke: tuple[str, ...]
    search: tuple[str, ...]
    gate: tuple[str, ...]
    sealed: tuple[str, ...]
    repeats: int = 1
    evaluations: int = 0

    def of(self, purpose: str) -> tuple[tuple[str, ...], int]:
        """The instances of a purpose, and how often each is rolled out."""
        instances: tuple[str, ...] = getattr(self, "sealed" if purpose == PERTURBED else purpose)
        return instances, self.repeats if purpose in ("gate", "sealed", PERTURBED) else 1

    def evaluated(self, purpose: str) -> int:
        """The evaluations that a rollout of this purpose may ask for."""
        return self.evaluations if purpose in ("search", "gate") else 0

    def cost(self, *purposes: str) -> Cost:
        """What rolling one agent out for these purposes takes at most."""
        rollouts = evaluations = 0
        for purpose in purposes:
            instances, repeats = self.of(purpose)
            rollouts += len(instances) * repeats
            evaluations += len(instances) * repeats * self.evaluated(purpose)
        return Cost(rollouts, rollouts + evaluations)

    @property
    def report(self) -> Cost:
        """What the sealed report takes at most: two agents, or the best answers of two."""
        if not self.evaluations:
            return self.cost("sealed", "sealed")
        compared = sum(most * len(instances) for most, instances in rounds(self.gate))
        return Cost(0, 2 * (compared + len(self.sealed)))

    @property
    def looking_back(self) -> Cost:
        """What one look at how far a closed run's result holds takes."""
        return self.cost("gate" if self.evaluations else "sealed")

    def look(self, *, explores: bool) -> Cost:
        """What looking at one agent takes, with or without an exploration for the weight lever."""
        explored = GROUP * min(EXPLORED, len(self.search)) if explores else 0
        return self.cost("smoke", "search", "gate") + Cost(explored, explored)


def check_budget(samples: Samples, once: Cost, limit: Limit) -> None:
    """UsageError where a budget does not even cover the first agent, ``once``, and the sealed report."""
    needed = once + samples.report
    for kind, amount in needed.kinds.items():
        if limit.amounts.get(kind, amount) < amount:
            raise UsageError(
                f"--budget {kind}={limit.amounts[kind]:g} is too small: the first agent and the sealed report "
                f"take {amount:g}, and each candidate {once.kinds[kind]:g} more"
            )


def take_samples(task: Task, plan: Plan) -> Samples:
    """The instances of every purpose: all of gate and sealed, a seeded sample of search; in a seeded random order.

    The order matters where a gate sweep is looked at early: it must say nothing of how hard an instance is.
    """
    search, gate, sealed = ([each.id for each in task.instances(split)] for split in EVALUATED)
    random.Random(f"search {plan.seed}").shuffle(search)
    random.Random(f"gate {plan.seed}").shuffle(gate)
    smoke, sample = search[:SMOKE_CASES], search[: plan.search_sample]
    evaluations = evaluations_of(task)
    return Samples(tuple(smoke), tuple(sample), tuple(gate), tuple(sealed), plan.repeats, evaluations)
