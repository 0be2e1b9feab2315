"""Reports of a job on how far it has come, made while it runs. They reach whoever submitted it, if somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sia_core.types import OnProgress

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
