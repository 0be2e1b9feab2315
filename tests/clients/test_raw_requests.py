"""Requests that are written byte by byte: how each is answered, and when the connection ends."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import urlsplit

import pytest
from clients.conftest import Site

from sia_runtime.worker.endpoint import HEADER_BYTES

BODY = json.dumps({"messages": [{"role": "user", "content": "hello"}]})
POST = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\ncontent-length: {len(BODY)}\r\n"
GET = "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\n"
LAST = GET + "connection: close\r\n\r\n"
SIZE = f"content-length: {len(BODY)}"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (f"{POST}\r\n{BODY}{POST}\r\n{BODY}{LAST}", [200, 200, 200]),
        (f"{POST}expect: 100-continue\r\n\r\n", [100, 400]),
        (f"{GET}content-length: 3\r\n\r\nabc{LAST}", [200, 200]),
        (f"HEAD{GET[3:]}\r\n{LAST}", [200, 200]),
        (POST.replace(SIZE, "transfer-encoding: chunked") + f"\r\n1\r\n{{\r\n0\r\n\r\n{LAST}", [411]),
        (f"{POST}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n\r\n{LAST}", [411]),
        (POST.replace(SIZE, "content-length: 99999999") + f"\r\n{LAST}", [413]),
        (f"{POST}content-length: 1\r\n\r\n{BODY}{LAST}", [400]),
        (f"{GET}a: ".ljust(HEADER_BYTES + 1, "b"), [431]),
    ],
    ids=["pipelined", "continue", "body of GET", "HEAD", "chunked", "two lengths", "too long", "twice", "long head"],
)
def test_requests_are_told_apart_and_one_that_is_not_read_is_the_last(
    site: Site, sent: str, statuses: list[int]
) -> None:
    site.says("one", "two")
    sent = sent.replace("KEY", site.key)[: HEADER_BYTES + 1]
    with socket.create_connection(("127.0.0.1", urlsplit(site.url).port or 0), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(sent.encode())
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except OSError:  # it did not read all of what was sent
            pass
    assert [int(each) for each in re.findall(rb"HTTP/1.1 (\d+)", received)] == statuses
