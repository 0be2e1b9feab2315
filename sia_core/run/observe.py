"""Handing a run's events to its observers. One that raises is named once and then left out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sia_core.hookspecs import Event
from sia_core.plugins import Source
from sia_core.sandbox.solving import describe

Observer = Callable[[Event], object]


class Tracker(Protocol):
    """An observer that a run asks for by ``--track NAME[:WHERE]``; its factory takes ``where`` if that is given.

    A run that is gone on with tells everything from its beginning again.
    """

    def __call__(self, event: Event) -> object:
        """Take note of an event. What it raises is told once, and it is left out from there on."""

    def close(self) -> None:
        """The run has ended, or failed: send what is still here."""


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
