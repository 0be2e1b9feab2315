"""The series of figures that a run's events make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sia_core.hookspecs import Event


class Figure(NamedTuple):
    """One value of a series, at one of its places."""

    series: str
    place: int
    value: float


class Figures:
    """Turns events to figures, in the order of the run; a new one for each run."""

    def __init__(self) -> None:
        self._candidates, self._minimizes = 0, False

    def of(self, event: Event) -> Iterator[Figure]:
        """The figures that an event tells; none for most kinds. What is not a finite number is left out."""
        tell = {
            "run.started": self._started,
            "run.drafted": self._drafted,
            "candidate.gated": self._gated,
            "training.progress": self._trained,
            "seal.finished": self._sealed,
        }.get(event.kind)
        for figure in tell(event.data) if tell else ():
            if isinstance(figure.value, int | float) and math.isfinite(figure.value):
                yield figure

    def _started(self, data: Any) -> Iterator[Figure]:
        self._minimizes = data.get("metric", {}).get("direction") == "minimize"
        yield from ()

    def _drafted(self, data: Any) -> Iterator[Figure]:
        yield Figure("gate/incumbent", 0, data["gate"]["value"])

    def _gated(self, data: Any) -> Iterator[Figure]:
        self._candidates += 1
        place, gate = self._candidates, data["gate"]
        if gate is None:  # it did not get as far
            return
        yield Figure("gate/candidate", place, gate["candidate"])
        yield Figure("gate/gain", place, -gate["delta"] if self._minimizes else gate["delta"])
        best = gate["candidate"] if data["accepted"] else gate["incumbent"]
        yield Figure("gate/incumbent", place, best)

    def _trained(self, data: Any) -> Iterator[Figure]:
        update = _update(data["key"])
        for row in data["steps"]:
            for name in sorted(row.keys() - {"step"}):
                yield Figure(f"train/{update}/{name}", row["step"], row[name])

    def _sealed(self, data: Any) -> Iterator[Figure]:
        yield Figure(f"sealed/{data['which']}", 0, data["value"])


def _update(key: str) -> str:
    """A weight update by the numbers of the report, where candidate 0.1 is the second of the first generation."""
    _, generation, _, candidate = key.split("/")
    return f"generation-{generation}" + (f"-candidate-{candidate}" if int(candidate) else "")
