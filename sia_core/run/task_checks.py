"""Whether a task can be worked on at all, found out before there is a folder for a run."""

from __future__ import annotations

import math

from sia_core.errors import HarnessError, PluginError, UsageError
from sia_core.run.gate import affordable
from sia_core.run.ledger import canonical
from sia_core.run.plan import EVALUATED, Plan
from sia_core.types import LARGEST_REWARD, Discovers, Task


def check_task(task: Task, plan: Plan) -> None:
    """Refuse a task on which no run can work, before there is a folder for one."""
    missing = [name for name in Task.__annotations__ if not hasattr(task, name)]
    if missing:
        raise PluginError(f"the task {type(task).__qualname__} lacks {', '.join(missing)} (see sia_core.types.Task)")
    if task.kind == "discover" and (not isinstance(task, Discovers) or task.evaluations < 1):
        raise PluginError(
            f"the task {type(task).__qualname__} is of kind 'discover', which takes `evaluations`, at least 1, and "
            "`artefact` (see sia_core.types.Discovers)"
        )
    low, high = task.metric.bounds or (-LARGEST_REWARD, LARGEST_REWARD)
    if not low <= task.failure_reward <= high:
        raise UsageError(
            f"task {task.name!r}: its failure reward {task.failure_reward!r} must be a number from {low:g} to {high:g}"
        )
    if task.metric.reward(task.failure_reward) == max(task.metric.reward_bounds or [math.inf]):
        raise UsageError(
            f"task {task.name!r}: to {task.metric.direction} within {task.metric.bounds}, a failure would earn the "
            "best there is; let `failure_reward` be the other bound"
        )
    _check_splits(task)
    try:
        _ = task.seed_harness().manifest
    except HarnessError as error:
        raise UsageError(f"the harness that task {task.name!r} starts from: {error}") from None
    gate = len(task.instances("gate"))
    if plan.generations and not affordable(1, gate):
        minimum = next(n for n in range(gate, 100) if affordable(1, n))
        raise UsageError(
            f"task {task.name!r} has {gate} instances on the gate, too few to show any gain: at least {minimum} are "
            "needed for one comparison, and more to see small gains. "
            "Give more cases, or measure only, with --generations 0"
        )


def _check_splits(task: Task) -> None:
    """The splits are disjoint, by id and by input, and none is empty."""
    split_of: dict[str, str] = {}
    for split in EVALUATED:
        instances = task.instances(split)
        if not instances:
            raise UsageError(f"task {task.name!r} has no instance in its {split!r} split")
        for instance in instances:
            for mark in (instance.id, canonical(dict(instance.input))):
                if split_of.setdefault(mark, split) != split:
                    raise UsageError(
                        f"task {task.name!r}: instance {instance.id} is in {split_of[mark]!r} and, by id or by input, "
                        f"in {split!r} too; the splits must be disjoint"
                    )
