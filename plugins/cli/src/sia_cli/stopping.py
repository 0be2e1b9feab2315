"""Stopping a run that was started from Python: by Ctrl-C, by a notebook's button, or with the task that awaits it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from sia_core.hookspecs import Event

TICK_SECONDS = 0.2

T = TypeVar("T")


class _Stopped(BaseException):
    """The run is to stop. No observer's fault, so nobody but the caller catches it."""


_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


class Watch:
    """An observer that keeps the run's name, and stops the run when its caller asks for that."""

    def __init__(self) -> None:
        self.name, self._stop = "", _STOP.get()

    def __call__(self, event: Event) -> None:
        if self._stop and self._stop.is_set():
            raise _Stopped
        self.name = event.data["run"] if event.kind == "run.started" else self.name

    @contextmanager
    def resumable(self, folder: Path) -> Iterator[None]:
        """Have an interrupted run say how it goes on."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.name:
                raise
            again = f"sia_core.open_run({os.fspath(folder / self.name)!r}).resume()"
            raise KeyboardInterrupt(f"stopped. What was finished is kept: go on with {again}") from None


async def in_thread(work: Callable[[], T]) -> T:
    """Do it in a thread; a task that is cancelled has it stop, and waits for that."""
    stop = threading.Event()
    before = _STOP.set(stop)
    thread = asyncio.ensure_future(asyncio.to_thread(work))  # it gets a copy of this context
    _STOP.reset(before)
    try:
        while not thread.done():  # the stop button of a notebook cancels this task, and does not wake its loop
            await asyncio.wait([thread], timeout=TICK_SECONDS)
        return thread.result()
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([thread])
        thread.exception()
        raise
