"""The policy over HTTP, as the OpenAI API has it: served by the host on a listener inside of one sandbox.

Every client is hostile code. What one connection can cost is bounded in bytes, in
time and in number; one that dawdles gives way to one that does not. Whether it does is
judged by how often the endpoint itself was awake: on a busy machine a client may have
been given no time at all between connecting and asking.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any, cast

from sia_core.chat import MODEL, Refused, chunks
from sia_core.sandbox.frames import MODEL_BYTES, ProtocolError, strict_json
from sia_core.types import ModelAccess

MODEL_SECONDS = 600.0
"""How long one call of the policy may take before the instance that waits for it is given up."""

MOST_CONNECTIONS = 64
REQUEST_SECONDS = 30.0
"""How long a connection may stay without a whole request."""

HEADER_BYTES = 32 * 1024

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_LOOKS = 6
"""So many looks at it, with time for everybody in between, before a connection gives way."""

_STATUS = {
    "authentication_error": HTTPStatus.UNAUTHORIZED,
    "rate_limit_error": HTTPStatus.TOO_MANY_REQUESTS,
    "server_error": HTTPStatus.INTERNAL_SERVER_ERROR,
}
_MODEL = {"id": MODEL, "object": "model", "created": 0, "owned_by": "sia"}


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
            with connection, suppress(OSError, http.client.HTTPException):  # it has gone, or was cut
                _Handler(connection, self)
        finally:
            with self._mutex:
                self._reading.pop(connection, None)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Bounded:
    """Reads a request; its first line and its headers together may have so many bytes."""

    def __init__(self, source: BufferedIOBase) -> None:
        self._source, self.left = source, HEADER_BYTES

    def readline(self, limit: int = -1) -> bytes:
        line = self._source.readline(self.left + 1)
        self.left -= len(line)
        if self.left < 0:
            raise http.client.LineTooLong("headers")
        return line

    def read(self, size: int) -> bytes:
        return self._source.read(size)

    def close(self) -> None:
        self._source.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sia", ""
    wbufsize = -1
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True

    def __init__(self, connection: socket.socket, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        super().__init__(connection, ("", 0), cast(Any, None))

    def setup(self) -> None:
        super().setup()
        self.rfile = cast(Any, _Bounded(self.rfile))

    def handle_one_request(self) -> None:
        cast(Any, self.rfile).left = HEADER_BYTES
        super().handle_one_request()

    def do_GET(self) -> None:
        if self.path not in ("/v1/models", f"/v1/models/{MODEL}"):
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:200]} here")
        elif self._rollout() is not None:
            self._send(HTTPStatus.OK, {"object": "list", "data": [_MODEL]} if self.path == "/v1/models" else _MODEL)

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.path != "/v1/chat/completions":
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:200]} here")
            return
        rollout = self._rollout()
        if rollout is None:
            return
        try:
            request = strict_json(body)
        except ProtocolError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        if not isinstance(request, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "the body is not an object")
            return
        reply = self._endpoint.answer(self.connection, rollout, request)
        if "error" in reply:
            self._send(_STATUS.get(reply["error"].get("type"), HTTPStatus.BAD_REQUEST), reply)
        elif request.get("stream"):
            options = request.get("stream_options") or {}
            self._stream(chunks(reply, usage=bool(options.get("include_usage"))))
        else:
            self._send(HTTPStatus.OK, reply)

    def _rollout(self) -> tuple[str, int] | None:
        """The rollout that speaks; where it is none, that has been answered."""
        rollout = self._endpoint.admitted(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if rollout is None:
            self._refuse(HTTPStatus.UNAUTHORIZED, "no rollout under way has this key; OPENAI_API_KEY holds its own")
        return rollout

    def _body(self) -> bytes | None:
        """The request's body; where it has none that can be taken, that has been answered."""
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdecimal() and len(size) < 10):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a request needs a Content-Length", close=True)
        elif int(size) > MODEL_BYTES:
            why = f"a request of {size} bytes is longer than {MODEL_BYTES}"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why, close=True)
        else:
            body = self.rfile.read(int(size))
            if len(body) == int(size):
                return body
            self.close_connection = True
        return None

    def _refuse(self, status: HTTPStatus, message: str, *, close: bool = False) -> None:
        self.close_connection |= close
        kind = "authentication_error" if status == HTTPStatus.UNAUTHORIZED else "invalid_request_error"
        self._send(status, Refused(message, kind=kind).body())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase, close=True)

    def _stream(self, parts: list[dict[str, Any]]) -> None:
        lines = [*map(json.dumps, parts), "[DONE]"]
        self._write(HTTPStatus.OK, "text/event-stream", "".join(f"data: {line}\n\n" for line in lines).encode())

    def _send(self, status: HTTPStatus, what: Mapping[str, Any]) -> None:
        self._write(status, "application/json", json.dumps(what).encode())

    def _write(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status != HTTPStatus.OK:
            self.send_header("x-should-retry", "false")  # clients wait for seconds before they do: in vain, here
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""
