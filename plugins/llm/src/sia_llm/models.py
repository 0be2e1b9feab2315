"""The values that pass between SIA and the language models that improve for it, independent of the provider.

A conversation is JSON: messages with a ``role`` of

- ``user``: ``text``;
- ``assistant``: ``text``, ``calls`` and ``raw``, what the provider itself said, to be handed back as it was but for the
  arguments of calls, which are those of ``calls``;
- ``tools``: ``results``, each with the ``id`` and ``name`` of its call, ``text``, and whether it ``failed``; it is
  ``folded`` where long texts in it are lines (:mod:`sia_llm.folding`). What stands up to there stays the same for long.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import zip_longest
from typing import Any, Literal, Protocol

from sia_core.run.ledger import canonical
from sia_runtime.answers import InvalidAnswer, plain_json
from sia_runtime.worker.cleaning import cleaned

Message = Mapping[str, Any]
Ended = Literal["end", "tools", "length", "refusal"]

UNLIMITED = 32_768
"""Tokens that are set aside for a reply whose length the request does not limit."""

_ENVELOPE = 1000
"""Tokens that a provider may add around what it is sent, such as how tools are explained to the model."""


@dataclass(frozen=True)
class Tool:
    """A tool by its ``name``, a ``description`` for the model, and ``schema``, the JSON schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A model's call of the tool ``name``. ``id`` is the provider's, by which the result is handed back.

    ``arguments`` is a JSON object, or the text as the model wrote it where that is none.
    """

    id: str
    name: str
    arguments: Any

    @classmethod
    def written(cls, id: str, name: str, arguments: Any) -> ToolCall:
        """As a server sent it: ``arguments`` is a text, or what some servers send in its place, the object."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        try:
            value = plain_json(text if text.strip() else "{}")
        except InvalidAnswer:
            value = None
        return cls(id, name, value if isinstance(value, dict) else text)

    @property
    def text(self) -> str:
        """The arguments as a server sends them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Usage:
    """Tokens. ``input`` are those that were neither read from a cache nor written to one: no token counts twice.

    ``cache_read`` and ``cache_write`` are the others of the request, ``output`` those of the reply.
    """

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
    """One request of ``model``, by the provider's name for it, with ``messages`` and the ``tools`` that it may call.

    ``system`` are parts of the system prompt, the longest-lived first, so that a provider may cache. ``temperature``
    None is the provider's own; ``logprobs`` asks for those of the reply, as :attr:`Reply.logprobs`. Without
    ``max_tokens`` a reply is as long as the server allows. The reply ends before one of the texts ``stop``. It is one
    of ``n``, which a provider may give together, as :attr:`Reply.others`.
    """

    model: str
    system: tuple[str, ...]
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    max_tokens: int | None = 16_000
    temperature: float | None = None
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False

    def cleaned(self) -> Ask:
        """The same, so that it can be sent whatever programs and models wrote into its messages."""
        tools = tuple(Tool(**cleaned(asdict(each))) for each in self.tools)
        texts = {"system": cleaned(self.system), "messages": cleaned(self.messages), "stop": cleaned(self.stop)}
        return replace(self, **texts, tools=tools)

    def to_json(self) -> dict[str, Any]:
        """The request, without settings of the sampling that say nothing: its digest is that of earlier versions."""
        fields = asdict(self)
        return {name: value for name, value in fields.items() if name not in _PLAIN or value != _PLAIN[name]}

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides on the reply."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()

    @property
    def most_output(self) -> int:
        """Tokens that are set aside for the replies."""
        return (self.max_tokens or UNLIMITED) * self.n

    def most_tokens(self, known: Ask | None = None, known_tokens: int = 0) -> int:
        """An upper bound of the tokens read: one for each byte, except for an earlier request whose count is known.

        Messages of that request which have changed since are counted in both ways.
        """
        whole = _ENVELOPE + _bytes(self.to_json())
        if known is None or (known.model, known.system, known.tools) != (self.model, self.system, self.tools):
            return whole
        pairs = zip_longest(self.messages, known.messages)
        return min(whole, known_tokens + _bytes([now for now, before in pairs if now is not None and now != before]))


_PLAIN: Mapping[str, Any] = {"top_p": 1.0, "stop": (), "n": 1, "logprobs": False}


@dataclass(frozen=True)
class Logprob:
    """A sampled ``token`` as text, its natural ``logprob``, and its ``bytes``, which may be a part of a character."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """A reply of a model: ``text`` (which may be empty) and ``calls``. ``raw`` is the provider's own form of it.

    ``ended`` is ``tools`` where it calls some, ``length`` where ``max_tokens`` cut it, ``refusal`` where the model
    declines, else ``end``. ``others`` are further replies to the same request; ``usage`` counts the prompt once, and
    them all. ``logprobs`` is None where none were asked for, or the server gives none.
    """

    text: str
    calls: tuple[ToolCall, ...]
    ended: Ended
    usage: Usage
    raw: Any = None
    logprobs: tuple[Logprob, ...] | None = None
    others: tuple[Reply, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        """A recorded reply. One that an earlier version recorded may need :func:`cleaned`, so all are."""
        value = cleaned(value)
        calls = tuple(ToolCall(**each) for each in value["calls"])
        usage = Usage(**{name: count or 0 for name, count in value["usage"].items()})
        logprobs = value.get("logprobs")
        if logprobs is not None:
            logprobs = tuple(Logprob(each["token"], each["logprob"], tuple(each["bytes"])) for each in logprobs)
        others = tuple(cls.from_json(each) for each in value.get("others", ()))
        return cls(**{**value, "calls": calls, "usage": usage, "logprobs": logprobs, "others": others})

    def to_json(self) -> dict[str, Any]:
        """The reply; log-probabilities and further replies are there where it has some."""
        calls = [asdict(each) for each in self.calls]
        row = {**vars(self), "calls": calls, "usage": asdict(self.usage)}  # ``raw`` may be nested too deep for asdict
        del row["logprobs"], row["others"]
        if self.logprobs is not None:
            row["logprobs"] = [asdict(each) for each in self.logprobs]
        return {**row, "others": [each.to_json() for each in self.others]} if self.others else row

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
    """A message of the user."""
    return {"role": "user", "text": text}


def results(given: Sequence[tuple[ToolCall, str, bool]]) -> Message:
    """Results of tools: for each call its text, and whether it failed."""
    rows = [{"id": call.id, "name": call.name, "text": text, "failed": failed} for call, text, failed in given]
    return {"role": "tools", "results": rows}


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens, by the kinds of :class:`Usage`."""

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
        """The most that these numbers of tokens cost in dollars: those read, cached or not, and those of output."""
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
        super().__init__("".join(each if each.isprintable() else " " for each in cleaned(why)))
        self.retry, self.after, self.paid, self.refused = retry, after, paid, refused


def without_key(text: str, key: str) -> str:
    """A server's words without a key in them, also where :func:`sia_core.errors.excerpt` cut one in two."""
    text = text.replace(key, "[key]")
    for length in range(len(key) - 1, 3, -1):
        text = text.replace(f"{key[:length]} [... ", "[key] [... ")
    return text


REFUSED = (400, 413, 422)
"""Statuses that are about the request itself."""


def asked_wait(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a server asks to wait before another try: ``retry-after-ms``, or ``retry-after`` in either form."""
    milliseconds, after = (headers.get(name, "").strip() for name in ("retry-after-ms", "retry-after"))
    if (wait := _amount(milliseconds)) is not None:
        return wait / 1000
    if (wait := _amount(after.removesuffix("s"))) is not None:  # some servers write the unit
        return wait
    try:
        date = parsedate_to_datetime(after)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now())
    except (ValueError, OverflowError):
        return None


def _amount(text: str) -> float | None:
    """A number of at least zero, or None; the wait that is made of it is bounded by :class:`Patience`."""
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if 0 <= amount < math.inf else None


class Provider(Protocol):
    """An SDK behind one method; messages call it by ``name``. It retries nothing itself, and its errors hold no key."""

    name: str

    def complete(self, request: Ask) -> Reply:
        """The whole reply; CallFailed where there is none."""

    def prices(self, model: str) -> Prices | None:
        """The price of the model; None where it is not known."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a call is tried again: the waits double from ``first`` to ``longest`` seconds.

    There are ``tries`` in all. A server that asks for a longer wait gets it, up to ``longest_asked`` seconds.
    """

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
