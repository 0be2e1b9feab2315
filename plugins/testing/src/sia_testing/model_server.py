"""A stand-in for servers of language models: the real SDKs talk to it over HTTP, and it answers by script or by rule.

    with ModelServer([Turn("hello"), Turn(uses=[Use("decide", {...})])]) as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="any")  # or openai, with server.openai_url

No model is behind it: what a run that talked to it shows is that everything around the model works.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from sia_testing.wire import ChatCompletions, Fault, Messages, Protocol, Turn, Use

__all__ = ["Asked", "Fault", "ModelServer", "Turn", "Use"]

MOST_BYTES = 64 * 2**20
"""Of a request."""

_PROTOCOLS: tuple[Protocol, ...] = (Messages(), ChatCompletions())


@dataclass(frozen=True)
class Asked:
    """A request: its ``number`` in order of arrival, ``path``, ``headers`` (lower case) and JSON ``body``."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """All of the body, as JSON, to search in."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def results(self) -> list[str]:
        """The texts that tools gave back since the last reply."""
        texts: list[str] = []
        for message in reversed(self.body["messages"]):
            if message["role"] == "assistant":
                break
            if message["role"] == "tool":
                texts.append(_text(message["content"]))
            elif isinstance(message["content"], list):
                blocks = [block for block in message["content"] if block["type"] == "tool_result"]
                texts += [_text(block["content"]) for block in reversed(blocks)]
        return texts[::-1]


Rule = Callable[[Asked], Turn]


class ModelServer:
    """Answers on loopback while its ``with`` block lasts; ``asked`` holds every request.

    A script is used up turn by turn, in the order of arrival, and afterwards every
    request is answered with status 400; a rule is asked each time. Without a ``port`` it listens at any.
    """

    def __init__(self, script: Iterable[Turn] | Rule, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self._rule = script if callable(script) else None
        self._script = None if callable(script) else iter(script)
        self._mutex = threading.Lock()
        self.closing = threading.Event()
        self._http = _Http(self, port)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="sia-model-server")

    @property
    def url(self) -> str:
        """The base URL as the Messages protocol's clients want it."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """The base URL as the Chat Completions protocol's clients want it."""
        return f"{self.url}/v1"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def next(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[Asked, Turn]:
        """Note a request; what to answer it with."""
        with self._mutex:
            request = Asked(len(self.asked), path, headers, body)
            self.asked.append(request)
            scripted = next(self._script, None) if self._script is not None else None
        if self._rule is not None:
            return request, self._rule(request)
        return request, scripted or Turn(fault=Fault(status=400))


class _Http(ThreadingHTTPServer):
    """The HTTP listener of a model server."""

    daemon_threads = True

    def __init__(self, owner: ModelServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.owner = owner


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    @property
    def _owner(self) -> ModelServer:
        assert isinstance(self.server, _Http)
        return self.server.owner

    def do_POST(self) -> None:
        protocol = next((each for each in _PROTOCOLS if self.path.partition("?")[0] == each.path), None)
        length = self.headers.get("content-length", "")
        if (status := self._refused(length)) is not None:
            self.close_connection = True
            self._send(status, {"error": {"message": "send JSON with its length, to this machine by its own name"}})
            return
        content = self.rfile.read(int(length))
        if protocol is None:
            self._send(404, {"error": {"message": f"no such path: {self.path}"}})
            return
        if (body := _conversation(content)) is None:
            self._send(400, {"error": {"message": "not the JSON of a conversation"}})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request, turn = self._owner.next(self.path, headers, body)
        try:
            self._answer(protocol, request, turn)
        except (BrokenPipeError, ConnectionResetError):  # the client has gone: killed, or out of patience
            self.close_connection = True

    def _refused(self, length: str) -> int | None:
        """The status for a request that is not read, such as one that a page in a browser can send here."""
        host = self.headers.get("host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            return 421
        if self.headers.get_content_type() != "application/json":
            return 415
        if not (length.isascii() and length.isdigit()):
            return 411
        return 413 if len(length) > 10 or int(length) > MOST_BYTES else None

    def _answer(self, protocol: Protocol, request: Asked, turn: Turn) -> None:
        fault = turn.fault or Fault()
        if fault.body is not None:
            self._send_bytes(fault.status or 200, fault.body, fault)
        elif fault.status is not None:
            self._send(fault.status, protocol.error(fault.status, fault.message), fault)
        elif request.body.get("stream") and not fault.whole:
            self._stream(protocol.events(turn, request.number, request.body), fault)
        else:
            self._owner.closing.wait(fault.pause)
            self._send(200, protocol.whole(turn, request.number, request.body), fault)

    def _send(self, status: int, body: Mapping[str, Any], fault: Fault | None = None) -> None:
        self._send_bytes(status, json.dumps(body).encode(), fault or Fault())

    def _send_bytes(self, status: int, content: bytes, fault: Fault) -> None:
        self.send_response(status)
        headers = {"content-type": "application/json", "content-length": str(len(content)), **fault.headers}
        if fault.retry_after is not None:
            headers["retry-after"] = str(fault.retry_after)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: fault.cut_after])
        self.close_connection = self.close_connection or fault.cut_after is not None

    def _stream(self, events: Iterable[bytes], fault: Fault) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for index, event in enumerate(events):
            if index == fault.cut_after:
                self.close_connection = True
                return
            self._owner.closing.wait(fault.pause)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test looks at ``asked``."""


def _conversation(content: bytes) -> Mapping[str, Any] | None:
    """A request's body; None where it is none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    messages = body.get("messages") if isinstance(body, dict) else None
    whole = isinstance(messages, list) and all(isinstance(each, dict) and "role" in each for each in messages)
    return body if whole else None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content)
