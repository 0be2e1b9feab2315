"""The policy as harnesses ask it: calls in the shape of chat completions, answered by one engine, recorded exactly.

An engine that computes here samples what waits in one batch after another. One whose server goes on
with others whenever a reply ends (:class:`sia_core.learning.Engine`, ``at_once``) gets each call as it comes.

What is sampled follows from the weights, the rollout's seed, the request, and how
often the rollout had asked it before; never from the order in which calls arrive.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sia_core.errors import ModelError, SiaError, UsageError
from sia_core.learning import Engine, Request, Sampled
from sia_runtime.worker.chat import Chat, keeps, no_call, parse, reply, said
from sia_runtime.worker.completions import Refused
from sia_runtime.worker.gateway_calls import Call, Caller, seed_of
from sia_runtime.worker.gateway_record import Record

__all__ = ["Gateway", "Record"]

CONTEXT = 32_768
"""Tokens of prompt and reply together that one call may have, where an engine does not say its policy's own limit."""

MOST_CALLS = 1000
"""Calls that one rollout may make: its time stands still while it waits for the policy."""

_PATIENCE_SHARE, _PATIENCE_SECONDS = 0.25, 2.0
"""How long a batch waits for more calls: this share of what the last one took (one of 1 takes half as long as one of
32, so these calls are worth it), and never longer than that."""

_TRIES = 3
"""Samples, at most, of a reply that has to call a tool."""

_KNOWN = 64
"""Requests that are remembered as checked and as rendered."""

_Reply = Mapping[str, Any]


class Gateway:
    """A :class:`~sia_runtime.sandbox.contract.ModelAccess` to one engine. Safe to use from several threads."""

    def __init__(self, engine: Engine, *, context: int = CONTEXT) -> None:
        self._engine, self._context = engine, context
        self._changed = threading.Condition()
        self._rendering = threading.Lock()
        self._rollouts: dict[str, Caller] = {}
        self._chats: OrderedDict[int, tuple[Mapping[str, Any], Chat]] = OrderedDict()
        self._rendered: OrderedDict[bytes, list[int]] = OrderedDict()
        self._queue: list[Call] = []
        self._at_work = 0  # rollouts that may ask, none of whose calls waits
        self._claims = 0
        self._closed = False
        self._last_seconds = 0.0
        self._one_by_one: int = getattr(engine, "at_once", 0)
        self._free = self._lanes = self._one_by_one or 1  # batches that may be under way at once
        self._threads = ThreadPoolExecutor(self._lanes, "sia-sampling") if self._one_by_one else None
        self._thread = threading.Thread(target=self._serve, name="sia-gateway", daemon=True)
        self._thread.start()

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
        """A rollout starts, perhaps for the second time: nothing of an earlier start counts any more but its tokens."""
        self.end(key)
        with self._changed:
            earlier = self._rollouts.get(key)
            used = earlier.used + earlier.held if earlier else 0
            self._rollouts[key] = Caller(
                tokens=tokens, used=used, seed=seed, group=group, training=training, place=place
            )
            self._at_work += 1

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[_Reply]:
        """One call; the future holds the reply, or ``{"error": {"message", "type", "param", "code"}}``."""
        try:
            call = self._prepared(key, self._parsed(request))
            self._enqueue(call)
            return call.future
        except Exception as error:
            refused: Future[_Reply] = Future()
            refused.set_result(_failure(error))
            return refused

    def answer(self, key: str, request: Mapping[str, Any]) -> _Reply:
        """The same, waited for."""
        return self.ask(key, request).result()

    def end(self, key: str) -> None:
        """The rollout asks nothing more; its record stays until :meth:`finish`. May be called twice."""
        with self._changed:
            rollout = self._rollouts.get(key)
            if rollout is not None and not rollout.ended:
                rollout.ended = True
                self._at_work -= not rollout.pending
                self._changed.notify_all()

    def finish(self, key: str) -> Record:
        """End a rollout and take its record; an empty one where it was never begun.

        ModelError where the engine could not be asked: such a rollout is no result.
        """
        self.end(key)
        with self._changed:
            rollout = self._rollouts.pop(key, None)
            if rollout is None:
                return Record()
            tokens = rollout.used + rollout.held
        if rollout.stopped:
            raise rollout.stopped
        return replace(rollout.book.record(), tokens=tokens, peak=rollout.peak, short=rollout.short)

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """The engine, for the caller alone, once no batch is under way; calls wait meanwhile."""
        with self._changed:
            self._claims += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._free == self._lanes)
            finally:
                self._claims -= 1
            self._free = 0
        try:
            yield self._engine
        finally:
            self._release(self._lanes)

    def close(self) -> None:
        """End, after what is being sampled; calls that wait get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._threads:
            self._threads.shutdown()

    # A call on its way to the engine.

    def _parsed(self, request: Mapping[str, Any]) -> Chat:
        """The checked request. The rollouts of a group ask the same, and often with the very same object."""
        with self._changed:
            if (entry := self._chats.get(id(request))) and entry[0] is request:
                return entry[1]
        chat = parse(request)
        with self._changed:
            self._chats[id(request)] = (request, chat)
            while len(self._chats) > _KNOWN:
                self._chats.popitem(last=False)
        return chat

    def _render(self, chat: Chat) -> list[int]:
        """The conversation's tokens; shared by calls that ask the same, and so never changed."""
        name = chat.digests[-1]
        if name not in self._rendered:
            try:
                self._rendered[name] = list(self._engine.tokens.render(chat.messages, chat.tools))
            except UsageError as error:
                raise Refused(f"messages: {error}", "messages", "unsupported_messages") from None
            while len(self._rendered) > _KNOWN:
                self._rendered.popitem(last=False)
        return self._rendered[name]

    def _prepared(self, key: str, chat: Chat) -> Call:
        with self._changed:
            rollout = self._rollouts.get(key)
            if rollout is None or rollout.ended:
                raise Refused("no rollout under way has this key", code="invalid_api_key", kind="authentication_error")
            rollout.calls += 1
            if rollout.calls > MOST_CALLS:
                raise Refused(f"a rollout may make {MOST_CALLS} calls", kind="rate_limit_error")
            place, occurrence = rollout.calls, rollout.occurrences[chat.digest]
            rollout.occurrences[chat.digest] += 1
        constrained = "constrain" in self._engine.can
        if chat.forced and not constrained:
            chat = chat.instructed()
        with self._rendering:
            rendered = self._render(chat)
            prompt = rollout.book.prompt(chat, rendered, self._engine.tokens)
        chat = self._fitting(len(prompt), chat)
        most = (len(prompt) + chat.n * chat.max_tokens) * (_TRIES if chat.forced else 1)
        with self._changed:
            rollout.hold(most)
        name = hashlib.sha256(f"{rollout.seed}/{chat.digest.hex()}/{occurrence}".encode()).hexdigest()
        request = Request(
            prompt=prompt,
            seeds=[seed_of(name, index) for index in range(chat.n)],
            max_tokens=chat.max_tokens,
            group=rollout.group * chat.n,
            stop=chat.stop,
            choices=chat.choices if constrained else (),
            prior=chat.prior if constrained else (),
            schema=chat.constraint if constrained else None,
            temperature=None if rollout.training else chat.temperature,
            top_p=1.0 if rollout.training else chat.top_p,
            place=rollout.place if constrained and chat.choices else None,
        )
        return Call(rollout, place, chat, name[:24], rendered, prompt, request, most)

    def _fitting(self, prompt: int, chat: Chat) -> Chat:
        """The request, with no longer a reply than fits behind its prompt; Refused where it does not fit as it is."""
        limit = getattr(self._engine, "context", None) or self._context
        if chat.may_shrink and 0 < limit - prompt < chat.max_tokens:
            return replace(chat, max_tokens=limit - prompt)
        if prompt + chat.max_tokens > limit:
            why = (
                f"this model's maximum context length is {limit} tokens, and {prompt + chat.max_tokens} are asked for: "
                f"{prompt} of prompt and {chat.max_tokens} of reply (max_tokens). Shorten the messages or the reply"
            )
            raise Refused(f"messages: {why}", "messages", "context_length_exceeded")
        return chat

    def _enqueue(self, call: Call) -> None:
        with self._changed:
            if self._closed:
                raise SiaError("the policy is not there any more: the run is ending")
            rollout = call.rollout
            self._at_work -= not (rollout.pending or rollout.ended)
            rollout.pending += 1
            self._queue.append(call)
            self._changed.notify_all()

    def _settle(self, call: Call, answer: _Reply, used: int = 0) -> None:
        with self._changed:
            rollout = call.rollout
            rollout.pending -= 1
            rollout.held -= call.most
            rollout.used += used
            self._at_work += not (rollout.pending or rollout.ended)
        call.future.set_result(answer)

    # The threads that ask the engine.

    def _serve(self) -> None:
        while batch := self._next_batch():
            if self._threads:
                self._threads.submit(self._answer, batch)
            else:
                self._answer(batch)
        for call in self._queue:
            self._settle(call, _failure(SiaError("the policy is not there any more: the run is ending")))

    def _answer(self, batch: Sequence[Call]) -> None:
        started = time.monotonic()
        self._sample([call for call in batch if not call.rollout.ended])
        self._last_seconds = time.monotonic() - started
        for call in batch:
            if not call.future.done():
                self._settle(call, _failure(SiaError("the rollout has ended")))
        self._release(1)

    def _next_batch(self) -> list[Call]:
        """The calls to sample next, once they may be; empty when closed.

        Those that wait, once no others are expected soon, or the first of them where each is sampled by itself.
        """
        with self._changed:
            while not self._closed:
                self._changed.wait_for(self._may_sample)
                if not self._one_by_one:
                    patience = min(_PATIENCE_SECONDS, _PATIENCE_SHARE * self._last_seconds)
                    self._changed.wait_for(lambda: self._closed or self._claims or not self._at_work, patience)
                if self._free and not (self._closed or self._claims):
                    self._free -= 1
                    size = 1 if self._one_by_one else len(self._queue)
                    batch, self._queue = self._queue[:size], self._queue[size:]
                    return batch
        return []

    def _may_sample(self) -> bool:
        return self._closed or bool(self._queue and self._free and not self._claims)

    def _release(self, lanes: int) -> None:
        with self._changed:
            self._free += lanes
            self._changed.notify_all()

    def _sample(self, batch: Sequence[Call]) -> None:
        """Answer a batch. What one request breaks, the others are asked again without: it changes none of them."""
        try:
            samples = self._engine.sample([call.request for call in batch]) if batch else []
        except ModelError as error:  # the engine cannot be asked, whatever it is asked
            for call in batch:
                call.rollout.stopped = error
                self._settle(call, _failure(error), call.most)
            return
        except Exception as error:
            if len(batch) > 1:
                for call in batch:
                    self._sample([call])
            elif batch[0].chat.forced and batch[0].request.schema is not None and isinstance(error, UsageError):
                batch[0].request = replace(batch[0].request, schema=None)  # it cannot be held to a call of these tools
                self._sample(batch)
            else:
                self._settle(batch[0], _failure(error), batch[0].most)  # nobody knows what it took
            return
        again = [call for call, sampled in zip(batch, samples, strict=True) if not self._taken(call, sampled)]
        if again:
            self._sample(again)

    def _taken(self, call: Call, sampled: Sequence[Sampled]) -> bool:
        """Note what was sampled, and answer the call; False where it has to be sampled again."""
        call.used += len(call.prompt) + sum(len(each.tokens) for each in sampled)
        try:
            with self._rendering:
                answer = self._reply(call, sampled)
        except Exception as error:  # what a policy can be talked into saying must not end this thread
            answer = _failure(error)
        if answer is not None:
            self._settle(call, answer, call.used)
        return answer is not None

    def _reply(self, call: Call, sampled: Sequence[Sampled]) -> _Reply | None:
        """The reply, once each of its choices calls what it has to; None where some are still to be sampled."""
        chat, rows = call.chat, list(zip(call.missing, sampled, strict=True))
        named = [(said(chat, each.text, f"{call.name}_{at}"), each) for at, each in rows]
        call.rollout.book.add(chat, call.rendered, call.prompt, named, call.place)
        for (at, _), (message, each) in zip(rows, named, strict=True):
            if keeps(chat, message) or each.finish == "length":
                call.kept[at] = message, each
        if call.missing and call.tries < _TRIES:
            call.again()
            return None
        if call.missing:
            return no_call(chat).body()
        replies = [call.kept[at] for at in sorted(call.kept)]
        return reply(chat, call.name, replies, len(call.prompt), self._engine.tokens.decode)


def _failure(error: Exception) -> _Reply:
    """The error object of an exception. One that is not the core's own may hold secrets: only its type is told."""
    if isinstance(error, Refused):
        return error.body()
    if isinstance(error, UsageError):
        return Refused(str(error)).body()
    message = str(error) if isinstance(error, SiaError) else f"the call of the policy failed: {type(error).__name__}"
    return Refused(message, kind="server_error").body()
