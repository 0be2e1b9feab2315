"""The policy as harnesses ask it: calls in the shape of chat completions, answered by one engine, recorded exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sia_core.learning import Engine, Trace


@dataclass(frozen=True)
class Record:
    """What one rollout's calls of the policy were.

    ``truncated`` says that a limit of length cut one short; ``turns`` are for a person
    to read, as JSON, cut to size.
    """

    traces: Sequence[Trace] = ()
    truncated: bool = False
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    turns: Sequence[Mapping[str, Any]] = ()


class Gateway:
    """Answers rollouts with one engine; :class:`sia_core.types.ModelAccess`. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, key: str, seed: int, *, group: int = 1, training: bool = False) -> None:
        """A rollout starts, perhaps for the second time: nothing of an earlier start counts any more."""
        raise NotImplementedError

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        """One call; the future holds the reply, or ``{"error": {"message", "type", "param", "code"}}``."""
        raise NotImplementedError

    def answer(self, key: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same, waited for."""
        return self.ask(key, request).result()

    def end(self, key: str) -> None:
        """The rollout asks nothing more; its record stays until :meth:`finish`. May be called twice."""
        raise NotImplementedError

    def finish(self, key: str) -> Record:
        """End a rollout and take its record; an empty one where it never asked."""
        raise NotImplementedError

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """The engine, for the caller alone, once no batch is under way; calls wait meanwhile."""
        yield self._engine

    def close(self) -> None:
        """End the engine's thread; calls that wait get an error."""
