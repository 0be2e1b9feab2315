"""Earlier updates of a run as facts for the next decision: settings, progress, and how far the policy moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.evidence import Trial
from sia_core.run.record import RunRecord

TOLD = 8
"""Updates, the latest ones."""

CURVE = 6
"""Mean rewards of an update's curve, at most."""


def placed(trials: Sequence[Trial]) -> list[tuple[int, Trial]]:
    """Each decision with its place in its generation, from 0."""
    places = Counter[int]()
    pairs = []
    for trial in trials:
        pairs.append((places[trial.generation], trial))
        places[trial.generation] += 1
    return pairs


def past_updates(trials: Sequence[Trial], record: RunRecord) -> list[dict[str, Any]]:
    """The latest updates that trained at all, each under the number of its decision."""
    updates = []
    for place, trial in placed(trials):
        if trial.lever == "weights" and (steps := record.training_steps(trial.generation, place)):
            changes = [each for each in record.decisions(trial.generation) if each["lever"] != "stop"]
            updates.append({"decision": f"{trial.generation}.{place}", **_facts(changes[place], steps)})
    return updates[-TOLD:]


def _facts(decision: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An update's settings, and its steps in a few numbers. ``moved`` is the largest step's, in nats a token."""
    return {
        "config": dict(decision["config"]),
        "training": dict(decision["training"]),
        "steps": len(steps),
        "rewards": [steps[at]["reward"] for at in _spread(len(steps))],
        "moved": max((step["kl"] for step in steps if step.get("kl") is not None), default=None),
        # A step that failed after its rollouts has no time.
        "seconds": sum(step.get("seconds", 0.0) for step in steps),
    }


def _spread(count: int) -> list[int]:
    """Places from the first to the last of ``count``, evenly."""
    most = min(count, CURVE)
    return [round(at * (count - 1) / max(1, most - 1)) for at in range(most)]
