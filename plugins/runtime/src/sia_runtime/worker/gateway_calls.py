"""The gateway's own state: rollouts that may ask the policy, and calls that wait for its reply."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from sia_core.errors import ModelError
from sia_core.learning import Request, Sampled
from sia_runtime.worker.chat import Chat
from sia_runtime.worker.completions import Message, Refused
from sia_runtime.worker.gateway_record import Book


@dataclass(eq=False)
class TokenShare:
    """A rollout's ``tokens``, None for no limit.

    Of these ``used`` are gone, and ``held`` are what its calls under way may take at most.
    """

    tokens: int | None
    used: int = 0
    held: int = 0
    peak: int = 0
    short: bool = False

    def hold(self, most: int) -> int:
        """Reserve the ``most`` that a call may take, before it is made; Refused where that does not fit."""
        total = self.used + self.held
        if self.tokens is not None and total + most > self.tokens:
            self.short = True
            why = f"{most} tokens do not fit: {total} of the rollout's {self.tokens} are taken"
            raise Refused(f"{why}, and the run's budget has no more", code="insufficient_quota")
        self.held += most
        self.peak = max(self.peak, self.used + self.held)
        return most


@dataclass(eq=False, kw_only=True)
class Caller(TokenShare):
    """A rollout that may ask. ``pending`` is how many of its calls wait for their replies."""

    seed: int
    group: int
    training: bool
    place: int | None
    stopped: ModelError | None = None
    book: Book = field(default_factory=Book)
    occurrences: Counter[bytes] = field(default_factory=Counter)
    calls: int = 0
    pending: int = 0
    ended: bool = False


@dataclass(eq=False)
class Call:
    """A call that waits. ``name`` is a digest of what decides on its reply, ``most`` the tokens that it may take.

    ``request`` samples the replies that are still ``missing``, by their index; ``kept`` are the others.
    ``place`` is the call's among those of its rollout.
    """

    rollout: Caller
    place: int
    chat: Chat
    name: str
    rendered: list[int]
    prompt: list[int]
    request: Request
    most: int
    future: Future[Mapping[str, Any]] = field(default_factory=Future)
    kept: dict[int, tuple[Message, Sampled]] = field(default_factory=dict)
    tries: int = 1
    used: int = 0

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self.chat.n) if index not in self.kept]

    def again(self) -> None:
        """Sample what is missing once more, by other seeds."""
        seeds = [seed_of(f"{self.name}/{self.tries}", index) for index in self.missing]
        self.request = replace(self.request, seeds=seeds)
        self.tries += 1


def seed_of(name: str, index: int) -> int:
    """The seed of the reply with that index to the call of that name."""
    return int.from_bytes(hashlib.sha256(f"{name}/{index}".encode()).digest()[:6])
