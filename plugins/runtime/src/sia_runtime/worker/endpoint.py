"""The policy over HTTP, as the OpenAI API has it: served by the host on a listener inside of one sandbox.

Every client is hostile code. What one connection can cost is bounded in bytes, in
time and in number; one that dawdles gives way to one that does not. Whether it does is
judged by how often the endpoint itself was awake: on a busy machine a client may have
been given no time at all between connecting and asking.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import h11

from sia_runtime.sandbox.contract import ModelAccess
from sia_runtime.sandbox.frames import MODEL_BYTES, ProtocolError, model_request
from sia_runtime.worker.completions import MODEL, Refused, chunks, events

MODEL_SECONDS = 600.0
"""How long one call of the policy may take before the instance that waits for it is given up."""

MOST_CONNECTIONS = 64
REQUEST_SECONDS = 30.0
"""How long a connection may stay without a whole request."""

HEADER_BYTES = 32 * 1024

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_LOOKS = 6
"""This many looks at it, with time for everybody in between, before a connection gives way."""

_STATUS = {
    "authentication_error": HTTPStatus.UNAUTHORIZED,
    "rate_limit_error": HTTPStatus.TOO_MANY_REQUESTS,
    "server_error": HTTPStatus.INTERNAL_SERVER_ERROR,
}
_MODEL = {"object": "model", "created": 0, "owned_by": "sia"}
_ABSENT = {
    "/v1/responses": "ask it for chat completions: `set_default_openai_api('chat_completions')` in openai-agents, "
    "`OpenAIChatModel` in pydantic-ai, `use_responses_api=False` in LangChain",
    "/v1/completions": "ask for chat completions",
    "/v1/embeddings": "embed by a library in the harness's `requires`",
}
"""Roads that clients take by default or often, and that are not there: what to do instead."""


class Endpoint:
    """Serves one sandbox. ``clock`` is told of a job that it starts (True) or ceases (False) to wait for the policy."""

    def __init__(self, listener: socket.socket, model: ModelAccess, clock: Callable[[int, bool], None]) -> None:
        self._listener, self._model, self._clock = listener.dup(), model, clock
        self._listener.settimeout(_TICK_SECONDS)
        self._mutex = threading.Lock()
        self._admitted: dict[str, tuple[str, int]] = {}
        # Since when, and which look, each connection has been without a whole request; None while it is answered.
        self._reading: dict[socket.socket, tuple[float, int] | None] = {}
        self._looks = 0
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="sia-endpoint", daemon=True).start()

    def admit(self, key: str, job: int) -> str:
        """Let a rollout ask; the token that it has to show."""
        token = f"sk-{secrets.token_hex(16)}"
        with self._mutex:
            self._admitted[token] = key, job
        return token

    def dismiss(self, job: int) -> None:
        """Let the rollout of a job ask no more."""
        with self._mutex:
            self._admitted = {token: each for token, each in self._admitted.items() if each[1] != job}

    def close(self) -> None:
        """Cut every connection, and accept no more."""
        self._closed.set()
        with self._mutex:
            for connection in self._reading:
                _cut(connection)

    def admitted(self, token: str) -> tuple[str, int] | None:
        """The key and the job of the rollout that shows this token."""
        with self._mutex:
            return self._admitted.get(token)

    def answer(self, connection: socket.socket, rollout: tuple[str, int], request: Mapping[str, Any]) -> Any:
        """The policy's reply, or an error object. The rollout's time stands still meanwhile."""
        key, job = rollout
        with self._answering(connection):
            self._clock(job, True)
            try:
                return self._model.ask(key, request).result(MODEL_SECONDS)
            except Exception as error:
                why = f"the call of the policy failed: {type(error).__name__}"
                return Refused(why, kind="server_error").body()
            finally:
                self._clock(job, False)

    @contextmanager
    def _answering(self, connection: socket.socket) -> Iterator[None]:
        with self._mutex:
            self._reading[connection] = None
        try:
            yield
        finally:
            with self._mutex:
                self._reading[connection] = time.monotonic(), self._looks

    def _accept(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    self._looks += 1
                    self._make_room()
                    continue
                except OSError:  # no descriptor left for now
                    self._closed.wait(_TICK_SECONDS)
                    continue
                if self._room():
                    with self._mutex:
                        self._reading[connection] = time.monotonic(), self._looks
                    serve = threading.Thread(target=self._serve, args=(connection,), name="sia-endpoint", daemon=True)
                    serve.start()
                else:
                    connection.close()

    def _room(self) -> bool:
        """Wait until one connection more can be served; whoever connects meanwhile waits, too. False once closed."""
        while not self._make_room():
            if self._closed.wait(_LOOK_SECONDS):
                return False
            self._looks += 1
        return True

    def _make_room(self) -> bool:
        """Cut what has dawdled too long; where there are too many, the one that has dawdled longest, if it had time."""
        with self._mutex:
            dawdling = {each: since for each, since in self._reading.items() if since is not None}
            late = time.monotonic() - REQUEST_SECONDS
            old = [each for each, (since, _) in dawdling.items() if since < late]
            if len(self._reading) >= MOST_CONNECTIONS and not old:
                had_time = [each for each, (_, look) in dawdling.items() if self._looks - look >= _LOOKS]
                old = sorted(had_time, key=lambda each: dawdling[each])[:1]
            for connection in old:
                _cut(connection)
                del self._reading[connection]
            return len(self._reading) < MOST_CONNECTIONS

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError, h11.ProtocolError):  # it has gone, or was cut
                _Client(connection, self).serve()
        finally:
            with self._mutex:
                self._reading.pop(connection, None)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Client:
    """One connection: requests, one after the other."""

    def __init__(self, connection: socket.socket, endpoint: Endpoint) -> None:
        connection.settimeout(REQUEST_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._endpoint = connection, endpoint
        self._http = h11.Connection(h11.SERVER, HEADER_BYTES)
        self._method, self._road, self._headers = b"", "", dict[bytes, bytes]()

    def serve(self) -> None:
        """Answer until the connection ends, or can hold no further request."""
        try:
            while isinstance(request := self._event(), h11.Request):
                self._method, self._headers = request.method, dict(request.headers)
                # Clients add `?api-version=` or a slash, which mean nothing here.
                self._road = unquote(request.target.decode().partition("?")[0].partition("#")[0].rstrip("/"))
                body = self._body()
                if body is not None:
                    self._answer(body)
                if not self._http.our_state is self._http.their_state is h11.DONE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self._refuse(HTTPStatus(error.error_status_hint), str(error))

    def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))
            # A head is measured between reads, so its reads are small.
            self._http.receive_data(self._connection.recv(1024 if self._http.their_state is h11.IDLE else 65536))
        return event

    def _body(self) -> bytes | None:
        """The request's body; where it has none that can be taken, that has been answered."""
        size = int(self._headers.get(b"content-length", 0))
        unsized = self._method == b"POST" and b"content-length" not in self._headers
        if unsized or b"transfer-encoding" in self._headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a request needs a Content-Length")
            return None
        if size > MODEL_BYTES:
            why = f"a request of {size} bytes is longer than {MODEL_BYTES}"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
            return None
        parts = []
        while isinstance(event := self._event(), h11.Data):
            parts.append(event.data)
        return b"".join(parts)

    def _answer(self, body: bytes) -> None:
        road = self._road
        models = road == "/v1/models" or road.startswith("/v1/models/")
        match self._method:
            case b"OPTIONS":
                self._write(HTTPStatus.OK, "application/json", b"{}")
            case b"GET" | b"HEAD" if models:
                if self._rollout() is not None:
                    # A request may name any model, so there is any.
                    model = {"id": road.removeprefix("/v1/models").lstrip("/") or MODEL, **_MODEL}
                    self._json(HTTPStatus.OK, {"object": "list", "data": [model]} if road == "/v1/models" else model)
            case b"POST" if road == "/v1/chat/completions":
                if (rollout := self._rollout()) is not None:
                    self._complete(rollout, body)
            case b"GET" | b"HEAD" | b"POST":
                instead = f"; {_ABSENT[road]}" if road in _ABSENT else ""
                why = f"there is no {road[:200]} here{instead}"
                self._refuse(HTTPStatus.NOT_FOUND, why, code="unsupported_endpoint")
            case _:
                self._refuse(HTTPStatus.NOT_IMPLEMENTED, "ask by GET or POST")

    def _complete(self, rollout: tuple[str, int], body: bytes) -> None:
        try:
            request = model_request(body)
        except ProtocolError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        reply = self._endpoint.answer(self._connection, rollout, request)
        if "error" in reply:
            self._json(_STATUS.get(reply["error"].get("type"), HTTPStatus.BAD_REQUEST), reply)
        elif request.get("stream"):
            options = request.get("stream_options") or {}
            parts = chunks(reply, usage=bool(options.get("include_usage")))
            self._write(HTTPStatus.OK, "text/event-stream", events(parts))
        else:
            self._json(HTTPStatus.OK, reply)

    def _rollout(self) -> tuple[str, int] | None:
        """The rollout that speaks; where it is none, that has been answered."""
        scheme, _, token = self._headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        rollout = self._endpoint.admitted(token.strip()) if scheme.lower() == "bearer" else None
        if rollout is None:
            why = "no rollout under way has this key; OPENAI_API_KEY holds its own"
            self._refuse(HTTPStatus.UNAUTHORIZED, why, code="invalid_api_key")
        return rollout

    def _refuse(self, status: HTTPStatus, message: str, *, code: str | None = None) -> None:
        kind = "authentication_error" if status == HTTPStatus.UNAUTHORIZED else "invalid_request_error"
        self._json(status, Refused(message, code=code, kind=kind).body())

    def _json(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        self._write(status, "application/json", json.dumps(value).encode())

    def _write(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        if len(body) > MODEL_BYTES:  # it is held until the client has read it
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the reply has {len(body)} bytes, more than {MODEL_BYTES}")
            return
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        if status != HTTPStatus.OK:
            headers.append(("x-should-retry", "false"))  # clients wait for seconds before they do: in vain, here
        if self._http.their_state is h11.SEND_BODY:  # which nobody is going to read
            headers.append(("Connection", "close"))
        head = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        self._send(head, h11.Data(data=b"" if self._method == b"HEAD" else body), h11.EndOfMessage())

    def _send(self, *parts: Any) -> None:
        self._connection.sendall(b"".join(self._http.send(part) or b"" for part in parts))
