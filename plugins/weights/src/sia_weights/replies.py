"""Results of the jobs that look at rewards and that train, checked before they are recorded and when they are read.

A worker may be false, and a run folder somebody else's. A result of another form, once recorded, would end the run at
each resume.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sia_core.errors import LedgerError, SiaError, excerpt, faults
from sia_core.evidence import Rollout
from sia_weights.exploration import Count, Exploration, Figure, Reward


class TrainedStep(BaseModel):
    """A step of an update: the figures that a run counts. Its other ones are the learner's, numbers by name."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Reward | None]

    step: Count
    rollouts: Count
    verifications: Count
    tokens: Count
    reward: Reward
    seconds: Figure = 0.0
    silent: str = ""
    best: Annotated[list[dict[str, Any]], Field(alias="found")] = []


class Trained(BaseModel):
    """A job's steps, the adapter that they left, and why training stopped, if it did."""

    model_config = ConfigDict(extra="forbid", strict=True)

    adapter: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    stopped: str
    steps: list[TrainedStep]
    silent: Count
    seconds: Figure
    memory: dict[str, Figure]


_EXPLORATION = TypeAdapter(Exploration)
_TRAINED = TypeAdapter(Trained)


def exploration_of(row: Any) -> Exploration:
    """A look at rewards; LedgerError where it is none."""
    exploration: Exploration = _read(_EXPLORATION, row, "a look at rewards")
    return exploration


def training_of(row: Any, first: int, last: int) -> Mapping[str, Any]:
    """The row, if it is of steps from ``first`` on, before ``last``; LedgerError where it is not."""
    trained = _read(_TRAINED, row, "training")
    steps = [each.step for each in trained.steps]
    if steps != list(range(first, last))[: len(steps)]:
        raise LedgerError(f"training of the steps {first} to {last - 1} has the steps {excerpt(str(steps))}")
    for each in (each for step in trained.steps for each in step.best):
        Rollout.from_json(each)
    checked: Mapping[str, Any] = row
    return checked


def reply(work: Callable[[], Any], check: Callable[[Any], Any]) -> Any:
    """The result of ``work``, a job on a worker, if it passes the check; SiaError where it does not."""
    result = work()
    try:
        check(result)
    except LedgerError as error:
        raise SiaError(f"a worker's reply is false: {error}; nothing was recorded") from None
    return result


def _read(kind: TypeAdapter[Any], row: Any, name: str) -> Any:
    try:
        return kind.validate_json(json.dumps(row), strict=True)
    except ValidationError as error:
        raise LedgerError(f"the result of {name} is of another form: {faults(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"the result of {name} is no JSON: {excerpt(str(error))}") from None
