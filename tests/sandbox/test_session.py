"""A sandbox's messages, whatever they are: an event with valid fields, or the end of that sandbox."""

from __future__ import annotations

import json
import math
import socket
import tempfile
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.types import Limits
from sia_runtime.sandbox import program_host, run_once
from sia_runtime.sandbox.frames import OUTCOMES, PREFIX, FrameReader, ProtocolError, encode, reading
from sia_runtime.worker.session import Answered, Died, Done, Session

LIMITS = replace(Limits(), answer_bytes=1000, output_bytes=1000)
DONE = {"op": "done", "job": 1, "outcome": "ok", "message": "", "rewards": [1], "seconds": 0.5, "answer": 1}
REPORT = {"ended": "ok", "exit_code": 0, "seconds": 0.5, "stdout": 1}
REPLY = {"token": "t", "ended": "ok", "message": "", "value": 1, "arrays": []}
HOSTILE: list[Any] = [
    *(None, True, False, -1, -0.0, 0, 2**63, 1e308, -1e308, "", "ok", "done", "setup-crash", "\0", "x" * 5000),
    *([], {}, [[]], [{}], {"ok": 1}, [True], [None], [10**400], ["1"], [1] * 2001),
    *(10**400, -(10**400), 10**4000, 10**299, 2**53),
]
HOSTILE_TEXT = ["NaN", "-Infinity", "1e999", "1e-999", "9" * 5000, '"\\ud800"', "[" * 300 + "]" * 300, '{"a":1,"a":2}']


class Guest:
    """A sandbox of which there is but the channel."""

    listener: socket.socket | None = None

    def __init__(self) -> None:
        self.channel, self.inside = socket.socketpair()

    def ended(self) -> str | None:
        return None

    def stderr(self) -> str:
        return ""

    def kill(self) -> None:
        self.channel.close()
        self.inside.close()


def received(data: bytes) -> Any:
    """A session's events from the data, or Died."""
    guest = Guest()
    session = Session(guest, LIMITS, None)
    try:
        guest.inside.sendall(data)
        return session.receive(0.0)
    except Died as death:
        return death
    finally:
        session.close()


def raw(header: str, body: bytes = b"1") -> bytes:
    return PREFIX.pack(len(header.encode()), len(body)) + header.encode() + body


def is_sound(event: Any) -> bool:
    if isinstance(event, Done):
        valid = event.outcome in OUTCOMES and len(event.message) <= 4000 and len(event.log) <= LIMITS.output_bytes
        finite = all(map(math.isfinite, event.step_rewards))
        return valid and finite and 0 <= event.seconds < 1e300
    return type(event.job) is int


def headers(form: dict[str, Any], field: str) -> list[str]:
    """A form without one of its fields, with one more, and with any hostile value in its place."""
    lacking = {name: value for name, value in form.items() if name != field}
    values = [*map(json.dumps, HOSTILE), *HOSTILE_TEXT]
    filled = [json.dumps(form | {field: "HOLE"}).replace('"HOLE"', value) for value in values]
    return [json.dumps(lacking), json.dumps(form | {f"no {field}": 1}), *filled]


@pytest.mark.parametrize("field", DONE)
def test_no_field_of_a_result_ends_more_than_its_sandbox(field: str) -> None:
    for header in headers(DONE, field):
        events = received(raw(header))
        assert events.outcome == "protocol" if isinstance(events, Died) else all(map(is_sound, events)), (
            header[:200],
            events,
        )


VALUES = st.recursive(
    st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(database=None, deadline=None, derandomize=True, max_examples=200)
@given(
    st.sampled_from(["done", "model", "evaluate", "ready"]),
    st.dictionaries(st.sampled_from([*DONE, "error"]), VALUES),
    st.sampled_from([b"", b"1", b"{}", b"\xff", b"[NaN]", b"\0" * 9, b'{"messages": []}']),
)
def test_no_frame_ends_more_than_its_sandbox(op: str, fields: dict[str, Any], body: bytes) -> None:
    events = received(encode({"op": op, "job": 1, **(DONE if op == "done" else {}), **fields}, body))
    assert events.outcome == "protocol" if isinstance(events, Died) else all(map(is_sound, events)), events


@settings(database=None, deadline=None, derandomize=True, max_examples=100)
@given(st.binary(max_size=100))
def test_no_bytes_end_more_than_their_sandbox(data: bytes) -> None:
    events = received(data)
    assert events.outcome == "protocol" if isinstance(events, Died) else events == []


def test_an_honest_result_is_one() -> None:
    (event,) = received(encode(DONE, b"7log"))
    assert (event.outcome, event.answer, event.log, event.step_rewards) == ("ok", "7", "log", (1.0,))


def test_a_log_of_any_bytes_is_text() -> None:
    (event,) = received(encode(DONE, b"7\0\xff\xed\xa0\x80\r"))
    assert event.log.encode()


@pytest.mark.parametrize("field", REPORT)
def test_no_field_of_a_programs_report_is_more_than_a_protocol_error(field: str) -> None:
    for header in headers(REPORT, field):
        try:
            with reading():
                ((parsed, body),) = FrameReader(100).feed(raw(header))
                ran = run_once._understand(parsed, body)
        except ProtocolError:
            continue
        assert 0 <= ran.seconds < 1e300, header[:200]
        assert ran.exit_code is None or -256 < ran.exit_code < 256, header[:200]


def callee(guest: Guest, header: str) -> None:
    """Load what is asked for, and answer the first call with a header in which the call's token stands for `t`."""
    reader, replies = FrameReader(1000), [encode({"shared": False}), encode({"loaded": True})]
    with suppress(OSError):  # the host has heard enough
        while data := guest.inside.recv(1 << 16):
            for order, _ in reader.feed(data):
                reply = header.replace('"token": "t"', f'"token": {json.dumps(order.get("token"))}')
                guest.inside.sendall(replies.pop(0) if replies else raw(reply, b""))


@pytest.mark.parametrize("field", REPLY)
def test_no_field_of_a_calls_reply_is_more_than_the_end_of_that_program(field: str) -> None:
    for header in headers(REPLY, field):
        guest, folder = Guest(), tempfile.TemporaryDirectory()
        thread = threading.Thread(target=callee, args=(guest, header))
        thread.start()
        with program_host.Program(guest, "m", LIMITS, folder) as program:
            called = program.call("f", seconds=5.0)
        thread.join()
        assert called.ended in ("ok", "error", "protocol"), (header[:200], called)


def answered(size: int) -> Future[Any]:
    reply: Future[Any] = Future()
    reply.set_result({"text": "x" * size})
    return reply


def test_a_reply_counts_as_given_once_the_sandbox_has_taken_all_of_it() -> None:
    guest = Guest()
    session = Session(guest, LIMITS, None)
    session.answer_later(1, answered(3 * 2**20))
    assert session.receive(0.0) == []
    unread = bytearray()
    while not (events := session.receive(0.0)):
        unread += guest.inside.recv(1 << 20)
    assert events == [Answered(1)]
    session.close()


def test_a_sandbox_that_reads_nothing_of_what_it_asked_for_is_ended() -> None:
    guest = Guest()
    session = Session(guest, LIMITS, None)
    session.answer_later(1, answered(3 * 2**20))
    for job in range(10_001):
        session._wait(job, True)
    with pytest.raises(Died) as death:
        session.receive(0.0)
    assert death.value.outcome == "flood"
    session.close()
