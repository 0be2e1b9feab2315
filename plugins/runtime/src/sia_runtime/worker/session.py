"""One guest, as the host sees it: started, set up, sent instances, and listened to without trust."""

from __future__ import annotations

import json
import queue
import select
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sia_core.sandbox.endpoint import Endpoint
from sia_core.sandbox.frames import (
    MODEL_BYTES,
    OUTCOMES,
    FrameReader,
    Header,
    ProtocolError,
    check_result,
    encode,
    strict_json,
)
from sia_core.types import Limits, ModelAccess, SandboxProcess

_READ = 1 << 18
_MAX_MESSAGE = 4000
_SHORT = 64 * 1024


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
class Asked:
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


Event = Done | Asked | Evaluates | Answered | Waiting


class Session:
    """A guest that runs. Not for use by several threads, but for those that answer for the policy."""

    def __init__(self, process: SandboxProcess, limits: Limits, model: ModelAccess | None) -> None:
        self._process, self._limits, self._model = process, limits, model
        self._reader = FrameReader(max(MODEL_BYTES, limits.answer_bytes + limits.output_bytes))
        self._unsent = b""
        self._encoded: tuple[Mapping[str, Any] | None, bytes] = (None, b"")
        self._outgoing: queue.SimpleQueue[tuple[Answered | Waiting, Header, bytes]] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()
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
        """What comes within that time, as soon as something does. Died when nothing will come any more."""
        try:
            sent, frames = self._listen(seconds)
            return [*sent, *(self._understand(header, body) for header, body in frames)]
        except ProtocolError as error:
            raise Died("protocol", str(error)) from None

    def answer_later(self, job: int, reply: Future[Mapping[str, Any]]) -> None:
        """The reply to what an instance asked; once it is there, a later :meth:`receive` sends it."""
        reply.add_done_callback(lambda done: self._send_later(Answered(job), *_reply(done)))

    def _wait(self, job: int, begins: bool) -> None:
        self._send_later(Waiting(job, begins), {"op": "wait", "begins": begins})

    def _send_later(self, event: Answered | Waiting, header: Header, body: bytes = b"") -> None:
        """Have the thread that receives send a frame, and be told of it."""
        self._outgoing.put((event, header, body))
        with suppress(OSError):  # closed meanwhile
            self._wake.send(b"!")

    def close(self) -> None:
        """Kill the guest."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._process.kill()
        self._wake.close()
        self._woken.close()

    def _send(self, header: Header, body: bytes = b"") -> None:
        self._unsent += encode(header, body)
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
        """Wait; what was sent meanwhile, and the frames that came."""
        poll = select.poll()
        channel, woken = self._process.channel.fileno(), self._woken.fileno()
        if channel < 0 or woken < 0:
            raise Died("killed", "the worker was closed")
        poll.register(channel, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        poll.register(woken, select.POLLIN)
        ready = dict(poll.poll(max(0.0, seconds) * 1000 + 1))
        sent = []
        if woken in ready:
            with suppress(OSError):  # closed by another thread
                self._woken.recv(_READ)
            while not self._outgoing.empty():
                event, header, body = self._outgoing.get()
                self._send({**header, "job": event.job}, body)
                sent.append(event)
        self._flush()
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

    def _understand(self, header: Header, body: bytes) -> Done | Asked | Evaluates:
        job = header.get("job")
        if not isinstance(job, int):
            raise ProtocolError("a frame without a job")
        if header.get("op") == "model" and header.keys() == {"op", "job"}:
            return Asked(job, _known(body) if len(body) <= _SHORT else _request(body))
        if header.get("op") == "evaluate" and header.keys() == {"op", "job"}:
            strict_json(body)
            return Evaluates(job, body.decode())
        expected = {"op", "job", "outcome", "message", "rewards", "seconds", "answer"}
        if header.get("op") != "done" or header.keys() != expected:
            raise ProtocolError(f"a frame of no known form: {_text(str(sorted(header)))[:200]}")
        if self._endpoint is not None:
            self._endpoint.dismiss(job)
        return self._done(job, header, body)

    def _done(self, job: int, header: Header, body: bytes) -> Done:
        check_result(header)
        outcome, rewards = str(header["outcome"]), header["rewards"]
        size, seconds = header["answer"], header["seconds"]
        if not isinstance(size, int) or not 0 <= size <= len(body) or not isinstance(seconds, int | float):
            raise ProtocolError("a result with a wrong length or duration")
        answer, log, message = body[:size], body[size:][: self._limits.output_bytes], _text(header["message"])
        if outcome == "ok":
            outcome, message = self._judge(answer, message)
        return Done(
            job,
            outcome,
            message,
            answer.decode() if outcome == "ok" else None,
            log.decode(errors="replace"),
            float(seconds),
            tuple(map(float, rewards)) if isinstance(rewards, list) else (),
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


def _request(body: bytes) -> Mapping[str, Any]:
    """A model call's request."""
    request = strict_json(body)
    if not isinstance(request, dict):
        raise ProtocolError("a model request that is not an object")
    return request


_known = lru_cache(maxsize=64)(_request)
"""The same, for the rollouts of a group, which often ask the same."""


def _text(value: object) -> str:
    """A guest's text: a string, short, and valid Unicode."""
    return (value if isinstance(value, str) else "").encode(errors="replace").decode()[:_MAX_MESSAGE]


def _reply(done: Future[Mapping[str, Any]]) -> tuple[Header, bytes]:
    """A reply as a frame. The policy's exceptions may hold secrets: only their type is told."""
    if (error := done.exception()) is not None:
        return {"error": f"the call of the policy failed: {type(error).__name__}"}, b""
    reply = done.result()
    if "error" in reply:
        return {"error": str(reply["error"]["message"])[:_MAX_MESSAGE]}, b""
    body = json.dumps(reply).encode()
    return ({}, body) if len(body) <= MODEL_BYTES else ({"error": "the reply is too long"}, b"")
