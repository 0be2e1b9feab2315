"""Handing a run's events to its observers. One that raises is named once and then left out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sia_core.hookspecs import Event
from sia_core.plugins import Source

Observer = Callable[[Event], object]


class Emitter:
    """Calls every observer with every event, one event at a time."""

    def __init__(self, observers: Sequence[tuple[Source, Observer]] = ()) -> None:
        self._observers = list(observers)
        self._mutex = threading.Lock()
        self.faults: list[str] = []

    def __call__(self, kind: str, **data: Any) -> None:
        event = Event(kind, data)
        with self._mutex:
            for pair in list(self._observers):
                source, observe = pair
                try:
                    observe(event)
                except Exception as error:
                    self._observers.remove(pair)
                    self.faults.append(f"observer of {source.distribution} {source.version}: {error!r}; left out")
