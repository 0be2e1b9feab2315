"""Intervals that end where the metric does. All that people read of a run's intervals comes by here.

The gate's interval of a change is a normal one, and may go past what rewards can be. Records keep it as it was
computed, so that they replay equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sia_core.run.intervals import in_units

CHANGES = frozenset({"gap", "change", "against_parent"})
"""Differences of two rewards, which may be as large as the bounds are wide, either way."""


def to_read(direction: str, row: Any, bounds: Sequence[float] | None) -> Any:
    """A record in units of the metric, whose ``bounds`` its intervals keep; None where there are none."""
    if bounds:
        row = _possible(row, [-bounds[1], -bounds[0]] if direction == "minimize" else bounds)
    return in_units(direction, row)


def clipped(ends: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """An interval without what lies past the bounds."""
    return [min(max(end, bounds[0]), bounds[1]) for end in ends]


def _possible(row: Any, bounds: Sequence[float]) -> Any:
    if isinstance(row, list | tuple):
        return [_possible(each, bounds) for each in row]
    if not isinstance(row, dict):
        return row
    change = [bounds[0] - bounds[1], bounds[1] - bounds[0]]
    result = {name: _possible(each, change if name in CHANGES else bounds) for name, each in row.items()}
    if "ci95" in row:
        result["ci95"] = clipped(row["ci95"], change if "delta" in row else bounds)
    if "why" in row and row.get("gate"):  # a sentence, in which the interval stands as text
        recorded, possible = ("[{:+.4f}, {:+.4f}]".format(*each["gate"]["ci95"]) for each in (row, result))
        result["why"] = row["why"].replace(recorded, possible)
    return result
