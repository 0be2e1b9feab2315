"""Service where more connect to the policy's endpoint than it serves at once."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from sia_runtime.worker.endpoint import MOST_CONNECTIONS, Endpoint


class Policy:
    """Answers at once, or once it may."""

    def __init__(self) -> None:
        self.may, self.asked = threading.Event(), threading.Semaphore(0)
        self.may.set()

    def begin(self, key: str, seed: int, **about: Any) -> None: ...

    def end(self, key: str) -> None: ...

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        self.asked.release()
        assert self.may.wait(20)
        future: Future[Mapping[str, Any]] = Future()
        future.set_result({"said": request["say"]})
        return future


class Looks(threading.Event):
    """Stands for the endpoint's end: each look at who dawdles waits until the test lets looks pass."""

    def __init__(self) -> None:
        super().__init__()
        self.looking, self.passing = threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.looking.set()
        return self.is_set() if self.passing.wait(20) else True


class Site:
    """An endpoint on loopback, and clients of it."""

    def __init__(self, listener: socket.socket, policy: Policy) -> None:
        self._address, self.policy = listener.getsockname(), policy
        self.endpoint = Endpoint(listener, policy, lambda job, waits: None)
        self.looks = self.endpoint._closed = Looks()
        self._token = self.endpoint.admit("key", 0)
        self.clients = ExitStack()

    def connect(self) -> socket.socket:
        return self.clients.enter_context(socket.create_connection(self._address, timeout=20))

    def ask(self, client: socket.socket, say: str) -> None:
        body = json.dumps({"say": say}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def said(self, client: socket.socket) -> Any:
        """The answer; None where the connection was cut instead."""
        got = b""
        try:
            while not got.endswith(b"}"):
                part = client.recv(65536)
                if not part:
                    return None
                got += part
        except ConnectionError:
            return None
        return json.loads(got.partition(b"\r\n\r\n")[2])["said"]


@pytest.fixture
def site() -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        result = Site(listener, Policy())
        with result.clients:
            yield result
            result.policy.may.set()
            result.looks.passing.set()
            result.endpoint.close()


def test_a_client_that_was_given_no_time_to_ask_is_not_cut_for_one_that_came_after_it(site: Site) -> None:
    honest = site.connect()
    hogs = [site.connect() for _ in range(MOST_CONNECTIONS - 1)]
    late = site.connect()
    site.ask(late, "at last")
    assert site.looks.looking.wait(20)
    site.ask(honest, "here")
    assert site.said(honest) == "here"
    site.looks.passing.set()
    assert site.said(late) == "at last"
    assert site.said(hogs[0]) is None


def test_where_all_are_being_answered_one_more_waits_and_is_not_turned_away(site: Site) -> None:
    site.policy.may.clear()
    clients = [site.connect() for _ in range(MOST_CONNECTIONS)]
    for number, client in enumerate(clients):
        site.ask(client, str(number))
    for _ in clients:
        assert site.policy.asked.acquire(timeout=20)
    more = site.connect()
    site.ask(more, "more")
    assert site.looks.looking.wait(20)
    site.policy.may.set()
    assert [site.said(client) for client in clients] == [str(number) for number in range(MOST_CONNECTIONS)]
    site.looks.passing.set()
    assert site.said(more) == "more"


def test_a_client_behind_many_more_that_dawdle_than_are_served_has_its_turn(site: Site) -> None:
    site.looks.passing.set()
    hogs = [site.connect() for _ in range(2 * MOST_CONNECTIONS)]
    for hog in hogs:
        hog.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 9")
    late = site.connect()
    site.ask(late, "at last")
    assert site.said(late) == "at last"
