"""Handing a run's events to its observers. One that raises is named once and then left out."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sia_core.hookspecs import Event
from sia_core.plugins import Source
from sia_core.run.intervals import in_units

Observer = Callable[[Event], object]


class Tracker(Protocol):
    """An observer that a run asks for by ``--track NAME[:WHERE]``; its factory takes ``where`` if that is given.

    A resumed run reports every event again, from the first one.
    """

    def __call__(self, event: Event) -> object:
        """Record an event. A tracker that raises is named once and then left out."""

    def close(self) -> None:
        """Send what is still buffered: the run has ended or failed."""


class Emitter:
    """Calls every observer with every event, one event at a time, its rewards in units of the metric.

    If one raises, the others get ``observer.failed`` with its name and the error.
    """

    def __init__(self, observers: Sequence[tuple[Source, Observer]] = (), direction: str = "maximize") -> None:
        self._observers, self._direction = list(observers), direction
        self._mutex = threading.Lock()

    def __call__(self, kind: str, **data: Any) -> None:
        with self._mutex:
            events = deque([Event(kind, in_units(self._direction, data))])
            while events:
                event = events.popleft()
                for pair in list(self._observers):
                    source, observe = pair
                    try:
                        observe(event)
                    except (Exception, SystemExit) as error:
                        self._observers.remove(pair)
                        name = f"{source.distribution} {source.version}"
                        events.append(Event("observer.failed", {"observer": name, "error": _text(error)}))


def _text(error: BaseException) -> str:
    """Type and text of an exception, whatever its ``__str__`` does."""
    text = "".join(traceback.format_exception_only(error)).strip()[:4000]
    return text.encode(errors="replace").decode()
