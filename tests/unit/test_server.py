"""The endpoint of a served agent: what it takes for a question, how it answers, and whom it refuses."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytest
from starlette.exceptions import HTTPException

from sia_cli.bounded_http import BoundedProtocol, Server, bound
from sia_core.errors import SandboxError
from sia_deploy.agent import DeployedAgent, Served
from sia_deploy.server import application, question, reply
from sia_runtime.worker.completions import chunks, events

ABOUT = Served("agent-1", "agent", "h" * 64, None, "namespaces")
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


class Echo:
    """An agent that answers what it is asked, and fails when told to."""

    about = ABOUT

    def answer(self, given: Mapping[str, Any]) -> str:
        if given == {"text": "fail"}:
            raise HTTPException(500, "the agent failed: timeout")
        return json.dumps(given["text"])


@contextmanager
def listening(token: str | None, connections: int) -> Iterator[int]:
    """The port of an endpoint that is served meanwhile."""
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = Server(application(cast(DeployedAgent, Echo()), token), connections, log_level="critical")
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(token: str | None = None) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """``ask(body, path, **headers)`` of a server: the status and what it says."""

    def ask(body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict[str, Any]]:
        fields = {"content-type": "application/json", **{key.replace("_", "-"): each for key, each in headers.items()}}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, fields)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    with listening(token, 64) as port:
        yield ask


class Client:
    """A connection to an endpoint, byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, *parts: bytes) -> Client:
        for part in parts:
            self.socket.sendall(part)
        return self

    def rest(self) -> bytes:
        """All that the server says until it ends the connection."""
        content = b""
        try:
            while part := self.socket.recv(65536):
                content += part
        except ConnectionResetError:  # it did not read all of what was sent
            pass
        return content

    def dribble(self, part: bytes) -> bytes:
        """Send a part over and over until the server has had enough; what it said."""
        try:
            while True:
                self.socket.sendall(part)
        except OSError:
            return self.rest()


Connects = Callable[[], Client]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """An endpoint of little patience, for two connections at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundedProtocol, "seconds", 0.2)
        with listening(None, 2) as port:
            yield port


@pytest.fixture
def connects(port: int) -> Iterator[Connects]:
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(port))
        return clients[-1]

    yield connect
    for client in clients:
        client.socket.close()


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = json.dumps(HELLO).encode()
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v1/mod", MODELS + b"x: ", HEAD + b"content-length: 9\r\n\r\n{"],
    ids=["idle", "line", "head", "body"],
)
def test_a_client_that_does_not_go_on_is_let_go(connects: Connects, sent: bytes) -> None:
    assert connects().send(sent).rest() == b""


@pytest.mark.parametrize(
    ("sent", "more"),
    [(MODELS + b"x: ", b"a"), (MODELS, b"x: a\r\n"), (HEAD + b"content-length: 1000000\r\n\r\n", b"[")],
    ids=["in a line", "line after line", "in a body"],
)
def test_a_client_that_sends_without_end_is_let_go(connects: Connects, sent: bytes, more: bytes) -> None:
    assert not connects().send(sent).dribble(more).startswith(b"HTTP/1.1 200")


def test_a_reply_that_nobody_takes_is_given_up(connects: Connects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "answer", lambda self, given: json.dumps("x" * 30_000_000))
    gone = [connects().send(WHOLE), connects().send(WHOLE)]
    assert _first_200(connects).startswith(b"HTTP/1.1 200")
    assert all(len(client.rest()) < 30_000_000 for client in gone)


def _first_200(connects: Connects) -> bytes:
    """The answer to the first client that finds a place."""
    while True:
        content = connects().send(MODELS + b"connection: close\r\n\r\n").rest()
        if not content.startswith(b"HTTP/1.1 503") and content:
            return content


def test_more_clients_than_the_bound_are_told_to_come_back(connects: Connects, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def answer(self: Echo, given: Mapping[str, Any]) -> str:
        waiting.release()
        go_on.wait()
        return '"done"'

    monkeypatch.setattr(Echo, "answer", answer)
    served = [connects().send(WHOLE), connects().send(WHOLE)]
    for _ in served:
        waiting.acquire()
    assert connects().send(MODELS + b"\r\n").rest().startswith(b"HTTP/1.1 503")
    go_on.set()
    assert all(b"done" in client.rest() for client in served)
    assert b"agent-1" in _first_200(connects)


def test_heads_that_are_half_sent_give_way_to_who_sends_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "seconds", 1e6)
    with listening(None, 8) as port, ExitStack() as stack:
        clients = [Client(port).send(MODELS) for _ in range(300)]
        for client in clients:
            stack.enter_context(client.socket)
        last = Client(port)
        stack.enter_context(last.socket)
        assert b"agent-1" in last.send(MODELS + b"connection: close\r\n\r\n").rest()


def test_requests_behind_one_another_on_a_connection_are_answered_in_order(connects: Connects) -> None:
    content = connects().send(WHOLE + WHOLE + MODELS + b"connection: close\r\n\r\n").rest()
    assert content.count(b"HTTP/1.1 200") == 3
    assert content.count(b'"hello"') == 2
    assert b"agent-1" in content.rpartition(b"HTTP/1.1 200")[2]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", 411),
        (HEAD + b"transfer-encoding: chunked\r\n", 400),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n", 400),
        (HEAD + b"content-length: 4\r\ncontent-length: 40\r\n", 400),
        (HEAD + b"content-length: -1\r\n", 400),
        (HEAD + b"content-length: 1_0\r\n", 400),
        (HEAD + b"content-length: " + b"9" * 5000 + b"\r\n", 400),
        (HEAD, 413),
        (HEAD.replace(b"chat", b"chats") + b"content-length: 100\r\n", 404),
        (HEAD.replace(b"application/json", b"text/plain") + b"content-length: 100\r\n", 415),
        (MODELS + b"content-length: 100\r\n", 200),
        (MODELS + b"x: y\r\n" * 50_000, 400),
        (b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\n", 400),
        (b"nonsense a b\r\n", 400),
    ],
)
def test_what_follows_a_body_that_was_not_read_is_no_request(connects: Connects, head: bytes, status: int) -> None:
    content = connects().send(head + b"\r\n" + MODELS + b"\r\n").rest()
    assert content.startswith(b"HTTP/1.1 %d" % status)
    assert content.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"host: LOCALHOST.:8643\r\n", 200),
        (b"host: [::1]\r\n", 200),
        (b"host: 127.0.0.1\r\nsec-fetch-site: same-origin\r\norigin: http://127.0.0.1:1\r\n", 200),
        (b"", 400),
        (b"host: localhost.evil.example\r\n", 421),
        (b"host: localhost\r\nhost: evil.example\r\n", 400),
        (b"host: evil.example@localhost\r\n", 200),
        (b"host: localhost@evil.example\r\n", 421),
        (b"host: [::1\r\n", 421),
        (b"host: localhost\r\nsec-fetch-site: cross-site\r\n", 403),
        (b"host: localhost\r\nsec-fetch-site: same-site\r\n", 403),
        (b"host: localhost\r\norigin: http://evil.example\r\n", 403),
        (b"host: localhost\r\norigin: null\r\n", 403),
    ],
)
def test_only_this_machine_by_its_own_name_and_no_page_of_another_site_is_answered(
    connects: Connects, lines: bytes, status: int
) -> None:
    content = connects().send(b"GET /v1/models HTTP/1.1\r\n" + lines + b"connection: close\r\n\r\n").rest()
    assert content.startswith(b"HTTP/1.1 %d" % status)
    assert b"access-control" not in content.lower()


def test_a_fault_of_the_agents_machine_is_an_answer_and_not_a_traceback(
    connects: Connects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Echo, given: Mapping[str, Any]) -> str:
        raise SandboxError("no namespaces here")

    monkeypatch.setattr(Echo, "answer", answer)
    content = connects().send(WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).rest()
    assert content.startswith(b"HTTP/1.1 500")
    assert b"no namespaces here" in content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("two plus three", {"text": "two plus three"}),
        ('{"fact": "x", "n": 1}', {"fact": "x", "n": 1}),
        ("[1, 2]", {"text": "[1, 2]"}),
        ("7", {"text": "7"}),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {"text": "ab"}),
    ],
)
def test_the_last_message_is_the_question(content: Any, expected: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": content}]
    assert question(json.dumps({"model": "any", "messages": messages}).encode()) == (expected, False)


def test_a_stream_is_asked_for() -> None:
    assert question(json.dumps({**HELLO, "stream": True, "n": None}).encode()) == ({"text": "hello"}, True)


def test_half_of_a_character_in_a_question_is_repaired() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "cut \ud83d"}]}).encode()
    assert question(body) == ({"text": "cut \ufffd"}, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"messages": []}',
        b'{"messages": "hello"}',
        b'{"messages": [{"content": 1}]}',
        b'{"messages": [{"content": [{"type": "image_url"}]}]}',
        b'{"messages": [{"content": "x"}], "n": 2}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_question_is_refused(body: bytes) -> None:
    with pytest.raises(HTTPException) as refused:
        question(body)
    assert refused.value.status_code == 400


@pytest.mark.parametrize(("answer", "content"), [('"theft"', "theft"), ("5", "5"), ('{"a": [1]}', '{"a": [1]}')])
def test_an_answer_is_a_text_as_it_is_and_anything_else_as_json(answer: str, content: str) -> None:
    completion = reply(ABOUT, answer)
    assert (completion["model"], completion["choices"][0]["message"]["content"]) == ("agent-1", content)


def test_it_answers_in_the_shape_of_the_api() -> None:
    with serving() as ask:
        status, completion = ask(HELLO)
        assert (status, completion["choices"][0]["message"]) == (
            200,
            {"role": "assistant", "content": "hello", "refusal": None},
        )
        assert ask(None, "/v1/models")[1]["data"][0]["id"] == "agent-1"
        assert ask(None, "/")[0] == ask(HELLO, "/v1/embeddings")[0] == 404
        status, failed = ask({"messages": [{"role": "user", "content": "fail"}]})
        assert (status, failed["error"]["type"]) == (500, "server_error")
        assert failed["error"]["message"] == "the agent failed: timeout"


def test_a_client_that_wants_a_stream_gets_the_answer_in_one_event() -> None:
    *parts, last, rest = events(chunks(reply(ABOUT, '"theft"'), usage=False)).split(b"\n\n")
    choices = [json.loads(chunk.removeprefix(b"data: "))["choices"][0] for chunk in parts]
    assert [(each["delta"].get("content"), each["finish_reason"]) for each in choices] == [
        ("theft", None),
        (None, "stop"),
    ]
    assert (last, rest) == (b"data: [DONE]", b"")


def test_a_web_page_cannot_ask_it_by_another_name_or_without_being_asked_for() -> None:
    with serving() as ask:
        assert ask(HELLO, host="evil.example")[0] == 421
        assert ask(HELLO, host="localhost:8643")[0] == 200
        assert ask(HELLO, content_type="text/plain")[0] == 415


def test_from_elsewhere_only_the_key_opens_it() -> None:
    with serving("a-key") as ask:
        assert ask(HELLO, host="10.0.0.1")[0] == 401
        assert ask(HELLO, host="10.0.0.1", authorization="Bearer another")[0] == 401
        assert ask(HELLO, host="10.0.0.1", authorization="Bearer a-key")[0] == 200


def test_a_body_without_end_is_not_read() -> None:
    with serving() as ask:
        assert ask(HELLO, content_length="99999999999")[0] == 413
