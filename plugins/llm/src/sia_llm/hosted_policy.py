"""A policy that somebody else serves: harnesses ask it, and it cannot be trained.

Its calls are paid for and cannot be repeated by computing, so each is recorded under its
rollout, in a ledger of its own beside the run's, before its reply is used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sia_core.budget import Budget, Limit
from sia_core.calls import CALLS, Calls, RequestRefused
from sia_core.chat import MODEL, Chat, Message, Refused, outgoing, parse
from sia_core.errors import SiaError
from sia_core.gateway_record import SHOWN_TURNS, Record, turn
from sia_core.ledger import Ledger
from sia_core.models import Ask, Patience, Provider, Reply, Tool, ToolCall, results, told

AT_ONCE = 64
"""Calls that are under way at most."""

MOST_CALLS = 1000
"""Calls that one rollout may make: its time stands still while it waits for the policy."""

FOLDER = "policy"

_LOG = logging.getLogger(__name__)

_FINISH = {"end": "stop", "tools": "tool_calls", "length": "length", "refusal": "content_filter"}


@runtime_checkable
class ServedEngine(Protocol):
    """An engine that only passes conversations on; its offer is an engine's. ``can`` is empty.

    ``dollars`` is the most that all calls of the policy in a run may cost; None is no limit.
    """

    can: frozenset[str]
    provider: Provider
    model: str
    dollars: float | None
    patience: Patience


@dataclass(eq=False)
class _Rollout:
    """A rollout that may ask, what it read and was told, and what stopped the run in it.

    Of the ``tokens`` that it may use, ``used`` are gone, and ``held`` are what calls under way may take at most.
    """

    calls: Calls
    tokens: int | None
    used: int = 0
    held: int = 0
    peak: int = 0
    short: bool = False
    turns: list[Mapping[str, Any]] = field(default_factory=list)
    seen: list[Message] = field(default_factory=list)
    asked: int = 0
    read: int = 0
    said: int = 0
    truncated: bool = False
    stopped: SiaError | None = None
    ended: bool = False


class ServedGateway:
    """Answers rollouts through a provider; :class:`sia_core.types.ModelAccess`. Safe to use from several threads."""

    def __init__(self, engine: ServedEngine, folder: Path) -> None:
        self._engine = engine
        self._ledger = Ledger(folder) if (folder / "ledger.db").is_file() else Ledger.create(folder)
        self.budget = Budget(Limit({} if engine.dollars is None else {"dollars": engine.dollars}))
        self.budget.settle({}, {"dollars": sum(_dollars(row) for _, row, _ in self._ledger.events(CALLS))})
        self._mutex = threading.Lock()
        self._rollouts: dict[str, _Rollout] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sia-served")

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
        """A rollout starts, perhaps for the second time: what it asks again is answered as it was."""
        calls = Calls(
            self._engine.provider,
            self._ledger,
            self.budget,
            _LOG.warning,
            patience=self._engine.patience,
            booked=True,
        )
        with self._mutex:
            earlier = self._rollouts.get(key)
            self._rollouts[key] = _Rollout(calls, tokens, earlier.used + earlier.held if earlier else 0)

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        """One call; the future holds the reply, or ``{"error": {"message", "type", "param", "code"}}``."""
        try:
            chat = parse(request)
            if chat.logprobs:
                raise Refused("logprobs: a policy that is served elsewhere gives none", "logprobs")
            with self._mutex:
                rollout = self._rollouts.get(key)
                if rollout is None or rollout.ended:
                    raise Refused("no rollout under way has this key", code="invalid_api_key")
                rollout.asked += 1
                if rollout.asked > MOST_CALLS:
                    raise Refused(f"a rollout may make {MOST_CALLS} calls", kind="rate_limit_error")
                asked = self._asked(chat)
                most = chat.n * (asked.most_tokens() + chat.max_tokens)
                _hold(rollout, most)
            return self._threads.submit(self._answered, key, rollout, chat, asked, most)
        except (Refused, RuntimeError) as error:
            refused: Future[Mapping[str, Any]] = Future()
            known = error if isinstance(error, Refused) else Refused("the run is ending", kind="server_error")
            refused.set_result(known.body())
            return refused

    def end(self, key: str) -> None:
        """The rollout asks nothing more. May be called twice."""
        with self._mutex:
            if rollout := self._rollouts.get(key):
                rollout.ended = True

    def finish(self, key: str) -> Record:
        """End a rollout and take its record. What stopped a call of it is raised: such a rollout is no result."""
        with self._mutex:
            rollout = self._rollouts.pop(key, None)
        if rollout is None:
            return Record()
        if rollout.stopped:
            raise rollout.stopped
        return Record(
            truncated=rollout.truncated,
            prompt_tokens=rollout.read,
            sampled_tokens=rollout.said,
            tokens=rollout.used + rollout.held,
            peak=rollout.peak,
            short=rollout.short,
            turns=tuple(rollout.turns),
        )

    def close(self) -> None:
        """End, after the calls that are under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ledger.close()

    def _answered(self, key: str, rollout: _Rollout, chat: Chat, asked: Ask, most: int) -> Mapping[str, Any]:
        try:
            replies = [rollout.calls.complete(f"policy/{key}", asked) for _ in range(chat.n)]
        except RequestRefused as error:
            return Refused(str(error)).body()
        except SiaError as error:
            rollout.stopped = rollout.stopped or error
            return Refused("the run is stopping", kind="server_error").body()
        messages = [_said(reply, chat) for reply in replies]
        with self._mutex:
            read = sum(max(0, reply.usage.read) for reply in replies)
            said = sum(max(0, reply.usage.output) for reply in replies)
            rollout.read, rollout.said = rollout.read + read, rollout.said + said
            rollout.held, rollout.used = rollout.held - most, rollout.used + min(most, read + said)
            rollout.truncated |= any(reply.ended == "length" for reply in replies)
            _note(rollout, chat, messages)
        return _body(chat.digest.hex()[:24], replies, messages)

    def _asked(self, chat: Chat) -> Ask:
        """A conversation of chat completions as a provider takes it. What cannot be constrained is asked freely."""
        messages = list(chat.messages)
        system = []
        while messages and messages[0]["role"] == "system":
            system.append(messages.pop(0)["content"])
        tools = [each["function"] for each in chat.tools]
        return Ask(
            self._engine.model,
            tuple(system),
            tuple(_conversation(messages)),
            tuple(Tool(each["name"], each.get("description", ""), each.get("parameters", {})) for each in tools),
            max_tokens=chat.max_tokens,
            temperature=chat.temperature,
        )


class ServedPolicy:
    """What a machine keeps of a policy that is served elsewhere, in the place of :class:`sia_core.policy.Policy`."""

    version = "served"

    def __init__(self, engine: ServedEngine, run: Path) -> None:
        self.engine, self.gateway = engine, ServedGateway(engine, run / FOLDER)

    @contextmanager
    def holding(self, adapter: str | None) -> Iterator[None]:
        """Anybody may ask at any time: there is nothing to hold."""
        yield

    def close(self) -> None:
        self.gateway.close()


def _hold(rollout: _Rollout, most: int) -> None:
    """Reserve the tokens of a call before it is made; Refused where they do not fit."""
    taken = rollout.used + rollout.held
    if rollout.tokens is not None and taken + most > rollout.tokens:
        rollout.short = True
        why = f"{most} tokens do not fit: {taken} of the rollout's {rollout.tokens} are taken"
        raise Refused(f"{why}, and the run's budget has no more", code="insufficient_quota")
    rollout.held += most
    rollout.peak = max(rollout.peak, rollout.used + rollout.held)


def _note(rollout: _Rollout, chat: Chat, replies: Sequence[Message]) -> None:
    """What a person is shown of a call: of a conversation that goes on, what is new in it."""
    whole = list(chat.messages)
    before = len(rollout.seen) if whole[: len(rollout.seen)] == rollout.seen else 0
    if len(rollout.turns) < SHOWN_TURNS:
        rollout.turns.append(turn(whole[before:], replies))
    rollout.seen = [*whole, *replies[:1]]


def _conversation(messages: Sequence[Message]) -> Iterator[Mapping[str, Any]]:
    given: list[tuple[ToolCall, str, bool]] = []
    for message in messages:
        if message["role"] == "tool":
            given.append((ToolCall(message.get("tool_call_id", ""), "", {}), message["content"], False))
            continue
        if given:
            yield results(given)
            given = []
        if message["role"] == "assistant":
            calls = [
                {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
                for call in message.get("tool_calls", ())
            ]
            yield {"role": "assistant", "text": message["content"], "calls": calls, "raw": None}
        else:
            yield told(message["content"])
    if given:
        yield results(given)


def _said(reply: Reply, chat: Chat) -> Message:
    """A reply in the form that :func:`sia_core.chat.parse` gives messages, cut at the first stop."""
    text = reply.text
    for stop in chat.stop:
        text = text.split(stop, 1)[0]
    message: Message = {"role": "assistant", "content": text}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.calls
        ]
    return message


def _body(name: str, replies: Sequence[Reply], messages: Sequence[Message]) -> dict[str, Any]:
    read, said = sum(reply.usage.read for reply in replies), sum(reply.usage.output for reply in replies)
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": 0,  # a reply is the same whenever it is handed out
        "model": MODEL,
        "choices": [
            {
                "index": index,
                "message": outgoing(message),
                "finish_reason": _FINISH[reply.ended],
                "logprobs": None,
            }
            for index, (reply, message) in enumerate(zip(replies, messages, strict=True))
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said},
    }


def _dollars(row: Mapping[str, Any]) -> float:
    """Of a recorded reply or failure; an intent has none."""
    return float(row.get("dollars", 0.0))
