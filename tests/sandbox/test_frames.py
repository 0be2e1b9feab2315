"""Frames and JSON from a hostile other end: whole and strict, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runtime.sandbox import frames
from sia_runtime.sandbox.frames import (
    MOST_VALUES,
    PREFIX,
    FrameReader,
    ProtocolError,
    encode,
    model_request,
    strict_json,
)


@settings(database=None, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.integers()), st.binary(max_size=50)), max_size=5),
    st.data(),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[Any], data: Any) -> None:
    stream = b"".join(encode(header, body) for header, body in frames)
    reader, output = FrameReader(50), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        output += reader.feed(stream[:size])
        stream = stream[size:]
    assert output == frames


@pytest.mark.parametrize("sizes", [(2**32 - 1, 0), (0, 2**32 - 1), (1001, 0), (0, 101)])
def test_a_frame_that_is_too_large_is_refused_before_it_is_read(sizes: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="larger"):
        FrameReader(100, 1000).feed(PREFIX.pack(*sizes))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}',
        b"[1] 2",
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"[" * 10**6,
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"9" * 10**5,
    ],
)
def test_json_that_does_not_mean_one_thing_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        strict_json(text)


@settings(database=None, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_json_is_parsed(value: Any) -> None:
    assert strict_json(json.dumps(value).encode()) == value


def test_wide_and_flat_json_is_no_bomb() -> None:
    assert strict_json(json.dumps([[i] for i in range(1000)]).encode()) == [[i] for i in range(1000)]


@pytest.mark.parametrize("value", ["0", "[]", "{}", '""', '{"a": 0}', '"\\",["'])
def test_a_request_of_the_policy_that_is_a_flood_of_values_is_refused_before_it_is_parsed(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "strict_json", lambda text: pytest.fail("it was parsed"))
    with pytest.raises(ProtocolError, match="more than 50,000 values"):
        model_request(('{"messages": [' + ",".join([value] * (MOST_VALUES + 1)) + "]}").encode())


def test_what_a_text_of_a_request_holds_are_no_values() -> None:
    request = {"messages": [{"role": "user", "content": '[{,\\"' * MOST_VALUES}]}
    assert model_request(json.dumps(request).encode()) == request


def test_a_request_of_the_policy_is_an_object() -> None:
    with pytest.raises(ProtocolError, match="not an object"):
        model_request(b"[]")
