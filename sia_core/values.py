"""The small values that tasks, verifiers and runs pass to each other. :mod:`sia_core.types` has all of them too.

Rewards are floats; inside a run higher is better. Values that cross a process are JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sia_core.errors import UsageError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Split = Literal["public", "search", "gate", "sealed"]
Kind = Literal["solve", "discover"]

LARGEST_REWARD = 1e100
"""The largest distance from 0 of a reward, a metric or a bound: squares of much more overflow a float."""


@dataclass(frozen=True)
class Metric:
    """A task's measure, under its ``name`` and in its ``unit``, such as "m"; UsageError for bounds that cannot be.

    ``bounds`` are its least and its largest value, None where it is not bounded on both sides. Where it is to
    ``minimize``, a run's rewards are its values negated, so that more is always better there.
    ``ordinal`` says that only the order of rewards means something, not how far apart they are.
    ``beside`` has the better direction of other metrics, by name: the report warns where one parts from the reward.
    """

    name: str
    direction: Literal["maximize", "minimize"] = "maximize"
    unit: str = ""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    ordinal: bool = False
    beside: Mapping[str, Literal["maximize", "minimize"]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise UsageError(f"metric {self.name!r}: direction {self.direction!r} must be maximize or minimize")
        match (0.0, 1.0) if self.bounds is None else self.bounds:
            case float() | int() as low, float() | int() as high if -LARGEST_REWARD <= low < high <= LARGEST_REWARD:
                return
        raise UsageError(
            f"metric {self.name!r}: bounds {self.bounds!r} must be its least and its largest value, in this order: "
            f"numbers of at most {LARGEST_REWARD:g}. Where it is not bounded on both sides, write bounds=None"
        )

    @property
    def span(self) -> float:
        """From the least to the largest reward; 1 where there is none."""
        return self.bounds[1] - self.bounds[0] if self.bounds else 1.0

    def reward(self, value: float) -> float:
        """The reward of a value, or the value of a reward: the same number, or negated."""
        return 0.0 - value if self.direction == "minimize" else value

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """The least and the largest reward of a run, None where there is none."""
        if self.bounds is None:
            return None
        low, high = sorted(map(self.reward, self.bounds))
        return low, high


@dataclass(frozen=True)
class Instance:
    """One thing to solve, of a ``split``. ``id`` derives from content and says nothing of the label; ``input`` is JSON.

    ``start`` is an earlier answer to improve (``answer``, ``reward``, ``feedback``) in a task to ``discover``, or None.
    """

    id: str
    split: Split
    input: Mapping[str, Any]
    start: Json = None


@dataclass(frozen=True)
class OfferRef:
    """An offer by its ``name``, and the ``settings`` to call its factory with, as JSON."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A verifier's verdict on an answer, ``reward`` in units of the metric. One that is not ``valid`` is a failure.

    ``metrics`` are further figures by name, ``feedback`` a few words on the answer; improvers read both.
    """

    reward: float
    valid: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    feedback: str = ""


@dataclass(frozen=True)
class Limits:
    """Limits of one sandbox: bytes, a number of ``processes``, and seconds by the clock.

    ``memory_bytes`` is for each process, ``total_memory_bytes`` for all together; ``file_bytes`` for each file,
    ``scratch_bytes`` for all that are written; ``output_bytes`` for what is printed, ``answer_bytes`` for an answer
    as JSON. ``setup`` has ``setup_seconds``, and ``solve``, for one instance, ``solve_seconds``.
    """

    memory_bytes: int = 4 * 2**30
    total_memory_bytes: int = 8 * 2**30
    processes: int = 64
    file_bytes: int = 512 * 2**20
    scratch_bytes: int = 1 * 2**30
    output_bytes: int = 64 * 1024
    answer_bytes: int = 1 * 2**20
    setup_seconds: float = 300.0
    solve_seconds: float = 30.0
