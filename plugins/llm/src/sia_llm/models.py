"""What passes between SIA and the language models that improve for it, whoever serves them.

A conversation is JSON: messages with a ``role`` of

- ``user``: ``text``;
- ``assistant``: ``text``, ``calls`` and ``raw``, what the provider itself said, to be handed back as it was;
- ``tools``: ``results``, each with the ``id`` and ``name`` of its call, ``text``, and whether it ``failed``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from sia_core.ledger import canonical

Message = Mapping[str, Any]
Ended = Literal["end", "tools", "length", "refusal"]

_ENVELOPE = 1000
"""Tokens that a provider may add around what it is sent, such as how tools are explained to the model."""


@dataclass(frozen=True)
class Tool:
    """A tool that a model may call; ``schema`` is the JSON schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A model's call of a tool. ``arguments`` is a JSON object; the raw text where it was malformed."""

    id: str
    name: str
    arguments: Any


@dataclass(frozen=True)
class Usage:
    """Tokens. ``input`` are those that were neither read from a cache nor written to one."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def read(self) -> int:
        """All that the model read."""
        return self.input + self.cache_read + self.cache_write


@dataclass(frozen=True)
class Ask:
    """One request. ``system`` are parts of the system prompt, the longest-lived first, so that a provider may cache."""

    model: str
    system: tuple[str, ...]
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    max_tokens: int = 16_000
    temperature: float | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides on the reply."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    def most_tokens(self, known: Ask | None = None, known_tokens: int = 0) -> int:
        """At most so many tokens will be read: one for each byte, but for an earlier request whose count is known."""
        begun = known is not None and (known.model, known.system, known.tools) == (self.model, self.system, self.tools)
        if known is not None and begun and self.messages[: len(known.messages)] == known.messages:
            return known_tokens + _bytes(list(self.messages[len(known.messages) :]))
        return _ENVELOPE + _bytes(asdict(self))


@dataclass(frozen=True)
class Reply:
    """What a model said. ``raw`` is the provider's own form of it."""

    text: str
    calls: tuple[ToolCall, ...]
    ended: Ended
    usage: Usage
    raw: Any = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        calls = tuple(ToolCall(**each) for each in value["calls"])
        return cls(**{**value, "calls": calls, "usage": Usage(**value["usage"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def message(self) -> Message:
        """As a part of the conversation that goes on."""
        return {
            "role": "assistant",
            "text": self.text,
            "calls": [asdict(each) for each in self.calls],
            "raw": self.raw,
        }


def told(text: str) -> Message:
    """What the user says."""
    return {"role": "user", "text": text}


def results(given: Sequence[tuple[ToolCall, str, bool]]) -> Message:
    """What tools gave: for each call its text, and whether it failed."""
    rows = [{"id": call.id, "name": call.name, "text": text, "failed": failed} for call, text, failed in given]
    return {"role": "tools", "results": rows}


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Dollars."""
        whole = (
            usage.input * self.input
            + usage.output * self.output
            + usage.cache_read * self.cache_read
            + usage.cache_write * self.cache_write
        )
        return round(whole / 1e6, 9)

    def most(self, read: int, output: int) -> float:
        """Dollars, at most, for so many tokens that are read, cached or not, and so many of output."""
        return round((read * max(self.input, self.cache_read, self.cache_write) + output * self.output) / 1e6, 9)


class CallFailed(Exception):
    """A call without a whole reply.

    ``retry`` says whether another try may succeed, ``after`` how many seconds the server asked
    to wait before, ``paid`` whether the provider may charge for it all the same, and
    ``refused`` that the request itself is at fault, such as one that is too long.
    """

    def __init__(
        self, why: str, *, retry: bool, after: float | None = None, paid: bool = False, refused: bool = False
    ) -> None:
        super().__init__(why)
        self.retry, self.after, self.paid, self.refused = retry, after, paid, refused


REFUSED = (400, 413, 422)
"""Statuses that are about the request itself."""


class Provider(Protocol):
    """An SDK behind one method. It retries nothing itself, and its errors hold no key."""

    name: str

    def complete(self, request: Ask) -> Reply:
        """The whole reply; CallFailed where there is none."""

    def prices(self, model: str) -> Prices | None:
        """What the model costs; None where that is not known."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a call is tried again: the waits double from ``first`` to ``longest`` seconds."""

    tries: int = 6
    first: float = 2.0
    longest: float = 60.0
    longest_asked: float = 600.0

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds before the next try; what the server asked for, if that is longer."""
        own: float = min(self.first * 2 ** (failures - 1), self.longest)
        return max(own, min(asked or 0.0, self.longest_asked))


def _bytes(value: Any) -> int:
    return len(canonical(value).encode())
