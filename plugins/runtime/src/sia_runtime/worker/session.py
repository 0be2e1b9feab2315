"""One guest, as the host sees it: started, set up, sent instances, and listened to without trust."""

from __future__ import annotations

import json
import queue
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sia_core.types import Limits
from sia_runtime.sandbox.contract import ModelAccess, SandboxProcess
from sia_runtime.sandbox.frames import (
    MODEL_BYTES,
    OF_A_GUEST,
    OUTCOMES,
    FrameReader,
    Header,
    ProtocolError,
    check,
    encode,
    model_request,
    reading,
    strict_json,
)
from sia_runtime.worker.endpoint import Endpoint

_READ = 1 << 18
_MAX_MESSAGE = 4000
_SHORT = 64 * 1024
_MOST_UNDERWAY = 10_000


class Died(Exception):
    """The guest has to be given up: an outcome, and what there is to say of it."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome, self.message = outcome, message


@dataclass(frozen=True)
class Done:
    """A guest's word on one instance, checked for its form alone."""

    job: int
    outcome: str
    message: str
    answer: str | None
    log: str
    seconds: float
    step_rewards: tuple[float, ...]


@dataclass(frozen=True)
class PolicyRequest:
    """A harness asks the policy."""

    job: int
    request: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluates:
    """A harness has an answer evaluated: JSON text."""

    job: int
    answer: str


@dataclass(frozen=True)
class Answered:
    """The reply to what was asked has been sent."""

    job: int


@dataclass(frozen=True)
class Waiting:
    """A harness waits for the policy over HTTP, or no longer."""

    job: int
    begins: bool


Event = Done | PolicyRequest | Evaluates | Answered | Waiting


class Session:
    """A guest that runs. Not for use by several threads, but for those that answer for the policy."""

    def __init__(self, process: SandboxProcess, limits: Limits, model: ModelAccess | None) -> None:
        self._process, self._limits, self._model = process, limits, model
        self._reader = FrameReader(max(MODEL_BYTES, limits.answer_bytes + limits.output_bytes))
        self._unsent, self._queued = b"", 0
        self._encoded: tuple[Mapping[str, Any] | None, bytes] = (None, b"")
        self._outgoing: queue.SimpleQueue[tuple[Answered | Waiting, Header, bytes]] = queue.SimpleQueue()
        self._underway: deque[tuple[int, Answered | Waiting]] = deque()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)  # who answers for the policy waits for nobody
        process.channel.setblocking(False)
        self._endpoint: Endpoint | None = None
        if model is not None and process.listener is not None:
            self._endpoint = Endpoint(process.listener, model, self._wait)

    def set_up(self, order: Mapping[str, Any]) -> None:
        """Have the harness set up. Died with ``setup-crash`` or ``setup-timeout`` where that fails."""
        deadline = time.monotonic() + self._limits.setup_seconds
        try:
            self._send(dict(order))
            while True:
                for header, _ in self._listen(deadline - time.monotonic())[1]:
                    if header == {"op": "ready"}:
                        return
                    raise Died("setup-crash", self._explained(_text(header.get("message"))))
                if time.monotonic() >= deadline:
                    raise Died("setup-timeout", f"set-up took longer than {self._limits.setup_seconds:g} seconds")
        except Died as death:
            if death.outcome.startswith("setup-"):
                raise
            raise Died("setup-crash", self._explained(f"set-up: {death.outcome}: {death.message}")) from None

    def submit(self, job: int, key: str, seed: int, instance: Mapping[str, Any], evaluations: int) -> None:
        """Send an instance, under a number that no other one has had, with its rollout's key."""
        token = {} if self._endpoint is None else {"token": self._endpoint.admit(key, job)}
        if self._encoded[0] is not instance:  # the rollouts of a group come one after the other
            self._encoded = (instance, json.dumps(instance).encode())
        self._send({"job": job, "seed": seed, "evaluations": evaluations, **token}, self._encoded[1])

    def receive(self, seconds: float) -> list[Event]:
        """The events that arrive within that time, as soon as there is one. Died when no more will arrive."""
        try:
            sent, frames = self._listen(seconds)
            with reading():
                return [*sent, *(self._understand(header, body) for header, body in frames)]
        except ProtocolError as error:
            raise Died("protocol", str(error)) from None

    def answer_later(self, job: int, reply: Future[Mapping[str, Any]]) -> None:
        """The reply to what an instance asked; once it is there, a later :meth:`receive` sends it."""
        reply.add_done_callback(lambda future: self._send_later(Answered(job), *_reply(future)))

    def _wait(self, job: int, begins: bool) -> None:
        self._send_later(Waiting(job, begins), {"op": "wait", "begins": begins})

    def _send_later(self, event: Answered | Waiting, header: Header, body: bytes = b"") -> None:
        """Have the thread that receives send a frame, and be told of it."""
        self._outgoing.put((event, header, body))
        with suppress(OSError):  # closed meanwhile, or woken often enough
            self._wake.send(b"!")

    def close(self) -> None:
        """Kill the guest."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._process.kill()
        self._wake.close()
        self._woken.close()

    def _send(self, header: Header, body: bytes = b"") -> None:
        frame = encode(header, body)
        self._unsent, self._queued = self._unsent + frame, self._queued + len(frame)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._process.channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""  # it has ended, as the next read will tell

    def _listen(self, seconds: float) -> tuple[list[Answered | Waiting], list[tuple[Header, bytes]]]:
        """Wait; what has left, to the last byte, and the frames that came.

        Who asks before the last reply has left has not read it: so no more than a reply a job waits here.
        """
        poll = select.poll()
        channel, woken = self._process.channel.fileno(), self._woken.fileno()
        if channel < 0 or woken < 0:
            raise Died("killed", "the worker was closed")
        poll.register(channel, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        poll.register(woken, select.POLLIN)
        ready = dict(poll.poll(max(0.0, seconds) * 1000 + 1))
        if woken in ready:
            with suppress(OSError):  # closed by another thread
                self._woken.recv(_READ)
            while not self._outgoing.empty():
                event, header, body = self._outgoing.get()
                self._send({**header, "job": event.job}, body)
                self._underway.append((self._queued, event))
        self._flush()
        if len(self._underway) > _MOST_UNDERWAY:
            raise Died("flood", "it asks the policy, and does not read what it is told")
        sent = []
        while self._underway and self._underway[0][0] <= self._queued - len(self._unsent):
            sent.append(self._underway.popleft()[1])
        return sent, self._read() if ready.get(channel, 0) & ~select.POLLOUT else []

    def _read(self) -> list[tuple[Header, bytes]]:
        try:
            data = self._process.channel.recv(_READ)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise self._death()
        try:
            with reading():
                return self._reader.feed(data)
        except ProtocolError as error:
            raise Died("protocol", str(error)) from None

    def _death(self) -> Died:
        """Why the channel closed."""
        ended = self._process.ended()
        self._process.kill()
        ended = ended or self._process.ended() or "it closed its channel"
        outcome = ended if ended in OUTCOMES else "killed"
        return Died(outcome, self._explained(f"the whole sandbox ended: {ended}"))

    def _explained(self, message: str) -> str:
        printed = self._process.stderr().strip()
        return _text(f"{message}\n{printed}" if printed else message)

    def _understand(self, header: Header, body: bytes) -> Done | PolicyRequest | Evaluates:
        name = check(header, OF_A_GUEST)
        fields: dict[str, Any] = header
        job: int = fields["job"]
        if name == "model":
            return PolicyRequest(job, _cached_request(body) if len(body) <= _SHORT else model_request(body))
        if name == "evaluate":
            strict_json(body)
            return Evaluates(job, body.decode())
        if self._endpoint is not None:
            self._endpoint.dismiss(job)
        return self._done(job, fields, body)

    def _done(self, job: int, fields: Mapping[str, Any], body: bytes) -> Done:
        outcome, size = fields["outcome"], fields["answer"]
        if size > len(body):
            raise ProtocolError("an answer longer than what was sent")
        answer, log, message = body[:size], body[size:][: self._limits.output_bytes], _text(fields["message"])
        if outcome == "ok":
            outcome, message = self._judge(answer, message)
        return Done(
            job,
            outcome,
            message,
            answer.decode() if outcome == "ok" else None,
            log.decode(errors="replace"),
            float(fields["seconds"]),
            tuple(map(float, fields["rewards"])),
        )

    def _judge(self, answer: bytes, message: str) -> tuple[str, str]:
        """The outcome of an answer that its harness calls good."""
        if len(answer) > self._limits.answer_bytes:
            return "answer-too-large", f"the answer has {len(answer)} bytes"
        try:
            strict_json(answer)
        except ProtocolError as error:
            return "not-json", str(error)
        return "ok", message


_cached_request = lru_cache(maxsize=64)(model_request)
"""A request, for the rollouts of a group, which often ask the same."""


def _text(value: object) -> str:
    """A guest's text: a string, short, and valid Unicode."""
    return (value if isinstance(value, str) else "").encode(errors="replace").decode()[:_MAX_MESSAGE]


def _reply(future: Future[Mapping[str, Any]]) -> tuple[Header, bytes]:
    """A reply as a frame. The policy's exceptions may hold secrets: only their type is told."""
    if (error := future.exception()) is not None:
        return {"error": f"the call of the policy failed: {type(error).__name__}"}, b""
    reply = future.result()
    if "error" in reply:
        return {"error": str(reply["error"]["message"])[:_MAX_MESSAGE], "code": reply["error"].get("code")}, b""
    body = json.dumps(reply).encode()
    return ({}, body) if len(body) <= MODEL_BYTES else ({"error": "the reply is too long"}, b"")
