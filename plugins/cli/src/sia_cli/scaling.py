"""How a run's time and its driver's load change with the workers: a small model, from what was counted and measured.

A run is a row of stages, each of which waits for the one before: a sweep of an agent, or of a
generation's candidates side by side, or the part of one up to the gate's next look. A stage of b
batches on w workers takes ceil(b / w) times what a batch takes on one, but no less than the
driver takes to book b results, which it does one by one. An update is one job on one worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sia_core.run.plan import Plan, Samples
from sia_core.run.robustness import most_looks
from sia_core.run.rollouts import BATCH

WORKERS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Costs:
    """Seconds: once at the start, to set a harness up, for a rollout on one worker, and to book a batch's result."""

    start: float
    setup: float
    rollout: float
    booking: float


@dataclass(frozen=True)
class Scaled:
    """A run on ``workers`` workers: seconds by the clock, the share of them that the driver is busy, worker hours."""

    workers: int
    seconds: float
    load: float
    worker_hours: float


def scaled(
    samples: Samples,
    plan: Plan,
    costs: Costs,
    most: float = math.inf,
    workers: Sequence[int] = WORKERS,
    pull: float = 0.0,
) -> list[Scaled]:
    """The run at its most, on each number of workers; of a budget of ``most`` rollouts, the share that it pays for.

    Applying a candidate's lever takes ``pull`` rollouts, one after the other.
    """
    row = list(stages(samples, plan))
    updates = plan.generations * plan.candidates * pull
    share = min(1.0, most / (updates + sum(map(sum, row))))
    booking = share * costs.booking * sum(map(len, row))
    table = []
    for count in workers:
        setups = 3 + plan.generations * -(-plan.candidates // count)
        working = updates * costs.rollout + sum(_seconds(stage, costs, count) for stage in row)
        took = costs.start + setups * costs.setup + share * working
        load = min(1.0, booking / took) if took else 0.0
        table.append(Scaled(count, round(took, 1), round(load, 4), round(count * took / 3600, 3)))
    return table


def stages(samples: Samples, plan: Plan) -> Iterator[list[int]]:
    """The rollouts of each batch, or the answers to score, stage after stage, of a run in which nothing ends early."""
    smoke, search, gate, back = (
        round(cost.verifications)
        for cost in (samples.cost("smoke"), samples.cost("search"), samples.cost("gate"), samples.looking_back)
    )
    for candidates in (1, *([plan.candidates] * plan.generations)):
        for size in (smoke, search):
            yield _batches(size) * candidates
        looks = _looks(_batches(gate)) if candidates > 1 else [_batches(gate)]
        yield from (part * candidates for part in looks)
    for _ in range(2):
        yield _batches(round(samples.report.verifications / 2))
    both, discovers = len(plan.levers) > 1, samples.evaluations > 0
    for _ in range(most_looks(plan.generations * plan.candidates, both=both, discovers=discovers)):
        yield _batches(back)


def _batches(rollouts: int) -> list[int]:
    whole, rest = divmod(rollouts, BATCH)
    return [BATCH] * whole + ([rest] if rest else [])


def _looks(batches: list[int]) -> Iterator[list[int]]:
    """The batches between the gate's looks: after the first, the second, the fourth and so on."""
    first, last = 0, 1
    while first < len(batches):
        yield batches[first:last]
        first, last = last, 2 * last


def _seconds(stage: list[int], costs: Costs, workers: int) -> float:
    """The longest batches first, each to the worker that is free: with batches of one size, ceil(b / w) of them."""
    ordered = sorted(stage, reverse=True)
    working = sum(ordered[::workers]) * costs.rollout
    return max(working, len(stage) * costs.booking)
