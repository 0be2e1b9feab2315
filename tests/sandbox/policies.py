"""A policy that is a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Policy:
    """Answers each call with a function of (key, request), in its own thread; notes what began and ended."""

    def __init__(self, call: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._call = call
        self._threads = ThreadPoolExecutor(8)
        self.begun: list[tuple[str, int, int, bool]] = []
        self.ended: list[str] = []

    def begin(
        self,
        key: str,
        seed: int,
        *,
        group: int = 1,
        training: bool = False,
        place: int | None = None,
        tokens: int | None = None,
    ) -> None:
        self.begun.append((key, seed, group, training))

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        return self._threads.submit(self._call, key, request)

    def end(self, key: str) -> None:
        self.ended.append(key)
