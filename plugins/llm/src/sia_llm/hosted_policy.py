"""A policy that somebody else serves: harnesses ask it, and it cannot be trained.

Its calls are paid for and cannot be repeated by computing, so each is recorded under its
rollout, in its own ledger beside the run's, before its reply is used.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_core.errors import SiaError
from sia_core.run import record
from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_llm.models import Ask, Patience, Provider, Reply, Tool, ToolCall, results, told
from sia_llm.paid_calls import Calls, RequestRefused
from sia_runtime.worker.chat import Chat, keeps, no_call, parse
from sia_runtime.worker.completions import Message, Refused, completion, tool_call
from sia_runtime.worker.gateway_calls import TokenShare
from sia_runtime.worker.gateway_record import SHOWN_TURNS, Record, turn

AT_ONCE = 64
"""Calls that are under way at most."""

MOST_CALLS = 1000
"""Calls that one rollout may make: its time stands still while it waits for the policy."""

LIMITED = 4096
"""The longest reply where tokens or dollars are limited, and neither the harness nor the user named another."""

FOLDER = "policy"

_LOG = logging.getLogger(__name__)

_TOO_LONG = re.compile(r"context.?(length|window|size)|(prompt|input) is too long|too many tokens", re.IGNORECASE)
"""In the words of providers: the conversation is longer than the model's context."""

_FINISH = {"end": "stop", "tools": "tool_calls", "length": "length", "refusal": "content_filter"}


class HostedEngine:
    """Base of engines that only pass conversations on; the offer is an engine's. ``can`` is empty.

    ``dollars`` is the most that all calls of the policy in a run may cost; None is no limit. It may have
    ``max_tokens``, the longest reply where a harness names none; without it no limit is sent, but
    for :data:`LIMITED` where tokens or dollars are limited.
    """

    can: frozenset[str]
    provider: Provider
    model: str
    dollars: float | None
    patience: Patience

    def open_policy(self, run: Path) -> HostedPolicy:
        """The policy of a run; its calls are recorded in the run's folder."""
        return HostedPolicy(self, run)

    def gateway(self, folder: Path) -> HostedGateway:
        """Access to the model for one process; its calls are recorded in the folder."""
        return HostedGateway(self, folder)


@dataclass(eq=False, kw_only=True)
class _HostedCaller(TokenShare):
    """A rollout that may ask, what it read and was told, and what stopped the run in it."""

    calls: Calls
    turns: list[Mapping[str, Any]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    call_count: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    truncated: bool = False
    replies: int = 0
    cut: int = 0
    stopped: SiaError | None = None
    ended: bool = False


class HostedGateway:
    """A :class:`~sia_runtime.sandbox.contract.ModelAccess` to a provider. Safe to use from several threads."""

    def __init__(self, engine: HostedEngine, folder: Path) -> None:
        self._engine = engine
        self._ledger = Ledger(folder) if (folder / "ledger.db").is_file() else Ledger.create(folder)
        self.budget = Budget(Limit({} if engine.dollars is None else {"dollars": engine.dollars}))
        self.budget.settle({}, {"dollars": sum(_dollars(row) for _, row, _ in self._ledger.events(record.CALLS))})
        self._mutex = threading.Lock()
        self._noticed = ""
        self._rollouts: dict[str, _HostedCaller] = {}
        self._refused_n: float = math.inf  # as many replies of one call, or more, the server does not give
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
            self._notice,
            patience=self._engine.patience,
            booked=True,
        )
        with self._mutex:
            earlier = self._rollouts.get(key)
            used = earlier.used + earlier.held if earlier else 0
            self._rollouts[key] = _HostedCaller(tokens=tokens, used=used, calls=calls)

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        """One call; the future holds the reply, or ``{"error": {"message", "type", "param", "code"}}``."""
        try:
            chat = parse(request)
            if chat.forced:
                chat = chat.instructed()
            with self._mutex:
                rollout = self._rollouts.get(key)
                if rollout is None or rollout.ended:
                    raise Refused(
                        "no rollout under way has this key", code="invalid_api_key", kind="authentication_error"
                    )
                rollout.call_count += 1
                if rollout.call_count > MOST_CALLS:
                    raise Refused(f"a rollout may make {MOST_CALLS} calls", kind="rate_limit_error")
                ask = self._asked(chat, limited=rollout.tokens is not None or self._engine.dollars is not None)
                if chat.n >= self._refused_n:
                    ask = replace(ask, n=1)
                reserve = rollout.hold(ask.most_tokens() + ask.most_output)
            return self._threads.submit(self._answered, key, rollout, chat, ask, reserve)
        except (Refused, RuntimeError) as error:
            refused: Future[Mapping[str, Any]] = Future()
            refusal = error if isinstance(error, Refused) else Refused("the run is ending", kind="server_error")
            refused.set_result(refusal.body())
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
            prompt_tokens=rollout.prompt_tokens,
            sampled_tokens=rollout.sampled_tokens,
            tokens=rollout.used + rollout.held,
            peak=rollout.peak,
            short=rollout.short,
            turns=tuple(rollout.turns),
            replies=rollout.replies,
            cut=rollout.cut,
        )

    def close(self) -> None:
        """End, after the calls that are under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ledger.close()

    def _notice(self, text: str) -> None:
        """Say it, unless it was said just now: the calls of many rollouts meet the same."""
        with self._mutex:
            repeated, self._noticed = text == self._noticed, text
        if not repeated:
            _LOG.warning(text)

    def _answered(self, key: str, rollout: _HostedCaller, chat: Chat, ask: Ask, reserve: int) -> Mapping[str, Any]:
        try:
            replies, prompt_tokens, completion_tokens = self._replies(f"policy/{key}", rollout, chat.n, ask, reserve)
        except RequestRefused as error:
            too_long = _TOO_LONG.search(str(error))
            return Refused(str(error), code="context_length_exceeded" if too_long else None).body()
        except Refused as error:
            return error.body()
        except SiaError as error:
            rollout.stopped = rollout.stopped or error
            return Refused("the run is stopping", kind="server_error").body()
        messages = [_said(reply, chat) for reply in replies]
        with self._mutex:
            cut = sum(reply.ended == "length" for reply in replies)
            rollout.truncated |= cut > 0
            rollout.replies, rollout.cut = rollout.replies + len(replies), rollout.cut + cut * chat.may_shrink
            _note(rollout, chat, messages)
        if chat.logprobs and any(reply.logprobs is None for reply in replies):
            return Refused("logprobs: this policy's server gives none; leave it out", "logprobs").body()
        if not all(keeps(chat, each) for each in messages):
            return no_call(chat).body()
        choices = [
            (message, _FINISH[reply.ended], _logprobs(reply, message["content"]) if chat.logprobs else None)
            for message, reply in zip(messages, replies, strict=True)
        ]
        return completion(chat.digest.hex()[:24], choices, (prompt_tokens, completion_tokens))

    def _replies(
        self, purpose: str, rollout: _HostedCaller, n: int, ask: Ask, reserve: int
    ) -> tuple[list[Reply], int, int]:
        """Some replies, and the tokens read and written: of one call, or as many as the server makes necessary."""
        replies: list[Reply] = []
        prompt_tokens = completion_tokens = 0
        while True:
            try:
                reply = rollout.calls.complete(purpose, ask)
            except RequestRefused as error:
                if ask.n == 1 or _TOO_LONG.search(str(error)):
                    raise
                with self._mutex:
                    self._refused_n = min(self._refused_n, ask.n)
                    rollout.held -= reserve
            else:
                here, there = max(0, reply.usage.read), max(0, reply.usage.output)
                replies = [*replies, reply, *reply.others][:n]
                prompt_tokens += here
                completion_tokens += there
                with self._mutex:
                    rollout.prompt_tokens += here
                    rollout.sampled_tokens += there
                    rollout.held -= reserve
                    rollout.used += min(reserve, here + there)
            if len(replies) == n:
                return replies, prompt_tokens, completion_tokens
            ask = replace(ask, n=1)
            with self._mutex:
                reserve = rollout.hold(ask.most_tokens() + ask.most_output)

    def _asked(self, chat: Chat, *, limited: bool) -> Ask:
        """A conversation of chat completions as a provider takes it. What cannot be constrained is asked freely."""
        longest = getattr(self._engine, "max_tokens", None) or (LIMITED if limited else None)
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
            max_tokens=longest if chat.may_shrink else chat.max_tokens,
            temperature=chat.temperature,
            top_p=chat.top_p,
            stop=chat.stop,
            n=chat.n,
            logprobs=chat.logprobs,
        ).cleaned()


class HostedPolicy:
    """A policy that is hosted elsewhere, in place of :class:`sia_runtime.worker.policy.Policy`."""

    version, local = "served", True

    def __init__(self, engine: HostedEngine, run: Path) -> None:
        self.engine, self.gateway = engine, HostedGateway(engine, run / FOLDER)

    @contextmanager
    def holding(self, adapter: str | None) -> Iterator[None]:
        """Anybody may ask at any time: there is nothing to hold."""
        yield

    def close(self) -> None:
        self.gateway.close()


def _note(rollout: _HostedCaller, chat: Chat, replies: Sequence[Message]) -> None:
    """Note a call for people: of a conversation that goes on, only the new messages."""
    whole = list(chat.messages)
    before = len(rollout.messages) if whole[: len(rollout.messages)] == rollout.messages else 0
    if len(rollout.turns) < SHOWN_TURNS:
        rollout.turns.append(turn(whole[before:], replies))
    rollout.messages = [*whole, *replies[:1]]


def _conversation(messages: Sequence[Message]) -> Iterator[Mapping[str, Any]]:
    outcomes: list[tuple[ToolCall, str, bool]] = []
    for message in messages:
        if message["role"] == "tool":
            outcomes.append((ToolCall(message.get("tool_call_id", ""), "", {}), message["content"], False))
            continue
        if outcomes:
            yield results(outcomes)
            outcomes = []
        if message["role"] == "assistant":
            calls = [
                {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
                for call in message.get("tool_calls", ())
            ]
            yield {"role": "assistant", "text": message["content"], "calls": calls, "raw": None}
        else:
            yield told(message["content"])
    if outcomes:
        yield results(outcomes)


def _said(reply: Reply, chat: Chat) -> Message:
    """A reply in the form that :func:`sia_runtime.worker.chat.parse` gives messages, cut at the first stop."""
    text = reply.text
    for stop in chat.stop:
        text = text.split(stop, 1)[0]
    message: Message = {"role": "assistant", "content": text}
    if reply.calls:
        calls = reply.calls if chat.parallel else reply.calls[:1]
        message["tool_calls"] = [tool_call(call.id, call.name, call.arguments) for call in calls]
    return message


def _logprobs(reply: Reply, text: str) -> Mapping[str, Any]:
    """The log-probabilities of a reply's tokens, up to where its text was cut."""
    content: list[dict[str, Any]] = []
    length = 0
    for each in reply.logprobs or ():
        if length >= len(text) and text != reply.text:
            break
        content.append({**asdict(each), "bytes": list(each.bytes), "top_logprobs": []})
        length += len(each.token)
    return {"content": content, "refusal": None}


def _dollars(row: Mapping[str, Any]) -> float:
    """Of a recorded reply or failure; an intent has none."""
    return float(row.get("dollars", 0.0))
