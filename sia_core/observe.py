"""Handing a run's events to its observers. One that raises is named once and then left out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sia_core.hookspecs import Event
from sia_core.plugins import Source
from sia_core.sandbox.solving import describe

Observer = Callable[[Event], object]


class Emitter:
    """Calls every observer with every event, one event at a time.

    Of one that raises the others hear as ``observer.failed``, with its name and the error.
    """

    def __init__(self, observers: Sequence[tuple[Source, Observer]] = ()) -> None:
        self._observers = list(observers)
        self._mutex = threading.Lock()

    def __call__(self, kind: str, **data: Any) -> None:
        with self._mutex:
            events = deque([Event(kind, data)])
            while events:
                event = events.popleft()
                for pair in list(self._observers):
                    source, observe = pair
                    try:
                        observe(event)
                    except (Exception, SystemExit) as error:
                        self._observers.remove(pair)
                        name = f"{source.distribution} {source.version}"
                        events.append(Event("observer.failed", {"observer": name, "error": describe(error)}))
