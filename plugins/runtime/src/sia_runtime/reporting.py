"""Reports of a job on how far it has come, made while it runs. They reach whoever submitted it, if somebody listens."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Annotated

from pydantic import Field, TypeAdapter

from sia_core.errors import SiaError, excerpt
from sia_core.types import OnProgress

KEPT = 4096
"""Reports of a job that a worker keeps for a driver that asks later."""

LARGEST = 1 << 20
"""Characters of a worker's reports that are read at once."""

_LISTENER: ContextVar[OnProgress | None] = ContextVar("listener", default=None)


def report(**figures: float) -> None:
    """Report figures of the job that runs in this thread."""
    if listener := _LISTENER.get():
        listener(figures)


@contextmanager
def heard_by(listener: OnProgress) -> Iterator[None]:
    """Hand the reports of this thread to a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


class LastReports:
    """The last reports of a job, a listener for :func:`heard_by`, kept for a driver elsewhere that asks for them.

    Of a report it keeps what is a finite number.
    """

    def __init__(self) -> None:
        self._last: deque[Mapping[str, float]] = deque(maxlen=KEPT)
        self._count = 0
        self._mutex = threading.Lock()

    def __call__(self, figures: Mapping[str, float]) -> None:
        numbers = {name: each for name, each in figures.items() if isinstance(each, Real) and math.isfinite(each)}
        with self._mutex:
            self._last.append(numbers)
            self._count += 1

    def after(self, count: int) -> str:
        """How many there were in all, and those after the first ``count`` that are still kept, as JSON."""
        with self._mutex:
            new = max(0, self._count - count)
            return json.dumps([self._count, list(self._last)[-new:] if new else []], default=float)


_Name = Annotated[str, Field(max_length=80)]
_Whole = Annotated[int, Field(strict=True, ge=-(10**15), le=10**15)]
_Decimal = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Figures = dict[_Name, _Whole | _Decimal]
_REPORTS = TypeAdapter(tuple[Annotated[_Whole, Field(ge=0)], Annotated[list[_Figures], Field(max_length=KEPT)]])


def read_reports(text: str) -> tuple[int, list[dict[str, float]]]:
    """Read the text of :meth:`LastReports.after` on a worker; SiaError where it cannot be one."""
    try:
        return _REPORTS.validate_python(json.loads(text) if len(text) <= LARGEST else None)
    except (ValueError, TypeError, RecursionError) as error:
        raise SiaError(f"a worker's reports have not the form of reports: {excerpt(str(error), 500)}") from None
