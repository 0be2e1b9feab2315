"""What a run is asked to do, which instances each of its purposes takes, and whether a budget can pay for it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sia_core.budget import Limit
from sia_core.errors import UsageError
from sia_core.explore import EXPLORED, GROUP
from sia_core.gate import RUN_ALPHA
from sia_core.types import Split, Task

EVALUATED: tuple[Split, ...] = ("search", "gate", "sealed")
SMOKE_CASES = 2
PERTURBED = "perturbed"
"""The purpose of looking at sealed instances in another guise."""


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
    """The instances that each purpose takes, fixed for the run; those that decide, ``repeats`` times each."""

    smoke: tuple[str, ...]
    search: tuple[str, ...]
    gate: tuple[str, ...]
    sealed: tuple[str, ...]
    repeats: int = 1

    def of(self, purpose: str) -> tuple[tuple[str, ...], int]:
        """The instances of a purpose, and how often each is rolled out."""
        instances: tuple[str, ...] = getattr(self, "sealed" if purpose == PERTURBED else purpose)
        return instances, self.repeats if purpose in ("gate", "sealed", PERTURBED) else 1

    @property
    def report(self) -> int:
        """The rollouts that the sealed report takes at most: two agents'."""
        return 2 * self.repeats * len(self.sealed)

    def look(self, *, explores: bool) -> int:
        """The rollouts that looking at one agent takes, with or without an exploration for the weight lever."""
        explored = GROUP * min(EXPLORED, len(self.search)) if explores else 0
        return len(self.smoke) + len(self.search) + self.repeats * len(self.gate) + explored


def check_budget(samples: Samples, once: int, limit: Limit) -> None:
    """UsageError where a budget does not even cover the first agent, ``once``, and the sealed report."""
    needed = once + samples.report
    for kind in ("rollouts", "verifications"):
        if limit.amounts.get(kind, needed) < needed:
            raise UsageError(
                f"--budget {kind}={limit.amounts[kind]:g} is too small: the first agent and the sealed report "
                f"take {needed}, and each candidate {once} more"
            )


def take_samples(task: Task, plan: Plan) -> Samples:
    """The instances of every purpose: all of gate and sealed, a seeded sample of search; in a seeded random order.

    The order matters where a gate sweep is looked at early: it must say nothing of how hard an instance is.
    """
    search, gate, sealed = ([each.id for each in task.instances(split)] for split in EVALUATED)
    random.Random(f"search {plan.seed}").shuffle(search)
    random.Random(f"gate {plan.seed}").shuffle(gate)
    smoke, sample = search[:SMOKE_CASES], search[: plan.search_sample]
    return Samples(tuple(smoke), tuple(sample), tuple(gate), tuple(sealed), plan.repeats)
