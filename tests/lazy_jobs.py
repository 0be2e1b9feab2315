"""Jobs of a fake backend that are worked on when somebody asks for a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sia_core.errors import SiaError


class Lazy(Future[Any]):
    """A result that ``work`` sets when it is asked for."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        self._work()
        return super().result(timeout)


def wait(futures: Sequence[Future[Any]]) -> None:
    """In place of the rollouts' ``wait``, which would wait for work that nobody has asked for."""
    for future in futures:
        with suppress(SiaError):
            future.result()
