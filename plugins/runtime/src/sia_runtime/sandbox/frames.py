"""The protocol of host and guest: frames of a small JSON header and a body, over a stream.

A frame is two big-endian 32-bit lengths, the header, and the body. The reader
checks both lengths before it buffers anything; the other end may be hostile.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from sia_runtime.sandbox.strict_json import NotStrict, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Header = dict[str, object]
Form = Mapping[str, Callable[[object], bool]]

PREFIX = struct.Struct(">II")
HEADER_BYTES = 256 * 1024
MODEL_BYTES = 4 * 2**20
MOST_VALUES = 50_000
"""The most values in a request of the policy: to check one takes a hundred times the memory that it has bytes."""

_MAX_DEPTH = 100
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


_LIMITS_HIT = ("timeout", "memory", "processes", "disk", "flood", "answer-too-large")
_FAULTS = ("crash", "killed", "not-json", "protocol")
OUTCOMES = frozenset(("ok", *_LIMITS_HIT, *_FAULTS))
"""The outcomes of one instance; a set-up that fails is not among them."""

MAX_STEP_REWARDS = 2000
LARGEST = 1e300
_MOST = 2**53


class ProtocolError(Exception):
    """The other end sent something that no honest end sends."""


def encode(header: Header, body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header).encode()
    return PREFIX.pack(len(text), len(body)) + text + body


class FrameReader:
    """Cuts a stream into frames. ``body_bytes`` is the most that one body may have."""

    def __init__(self, body_bytes: int, header_bytes: int = HEADER_BYTES) -> None:
        self._buffer = bytearray()
        self._header_bytes, self._body_bytes = header_bytes, body_bytes

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Take what was read; the frames that are now whole. ProtocolError where the stream is none."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= PREFIX.size:
            header_size, body_size = PREFIX.unpack_from(self._buffer)
            if header_size > self._header_bytes or body_size > self._body_bytes:
                raise ProtocolError(f"a frame of {header_size} + {body_size} bytes is larger than any may be")
            end = PREFIX.size + header_size + body_size
            if len(self._buffer) < end:
                break
            header = strict_json(bytes(self._buffer[PREFIX.size : PREFIX.size + header_size]))
            if not isinstance(header, dict):
                raise ProtocolError("a frame's header is not an object")
            frames.append((header, bytes(self._buffer[PREFIX.size + header_size : end])))
            del self._buffer[:end]
        return frames


def strict_json(text: bytes) -> object:
    """Parse JSON by :func:`sia_runtime.sandbox.strict_json.parse`. ProtocolError for whatever it refuses."""
    try:
        return parse(text.decode(), _MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"not JSON: {str(error)[:200]}") from None
    except NotStrict as error:
        raise ProtocolError(str(error)) from None


def model_request(text: bytes) -> dict[str, Any]:
    """Parse a request of the policy. ProtocolError unless it is a JSON object of not too many values."""
    if values_in(text, MOST_VALUES) > MOST_VALUES:
        raise ProtocolError(f"a request of the policy has more than {MOST_VALUES:,} values")
    request = strict_json(text)
    if not isinstance(request, dict):
        raise ProtocolError("a request of the policy is not an object")
    return request


def check(header: Header, forms: Mapping[str, Form]) -> str:
    """The name of the form that a header names as its ``op``. ProtocolError unless it has that form's fields alone."""
    name = header.get("op")
    form = forms.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or form is None or header.keys() != {"op", *form}:
        raise ProtocolError(f"a frame of no known form: {str(sorted(header))[:200]}")
    check_fields(header, form)
    return name


def check_fields(header: Header, form: Form) -> None:
    """ProtocolError unless every field of a form is there, and what it has to be."""
    for field, fits in form.items():
        if not fits(header.get(field)):
            raise ProtocolError(f"a frame whose {field!r} is missing, or is not what it has to be")


@contextmanager
def reading() -> Iterator[None]:
    """Whatever goes wrong in reading what the other end sent is the other end's failure: a ProtocolError."""
    try:
        yield
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"what it sent cannot be read: {type(error).__name__}") from error


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number of sane size, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_duration(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and value >= 0


def is_count(value: object) -> bool:
    """Whether a JSON value is a number of things or of bytes, or a job's."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def is_one_of(names: frozenset[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in names


def _are_rewards(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_STEP_REWARDS and all(map(is_number, value))


_RESULT: Form = {"outcome": is_one_of(OUTCOMES), "message": is_text, "rewards": _are_rewards}

OF_A_FORK: Mapping[str, Form] = {"done": _RESULT, "model": {}, "evaluate": {}}
"""Frames that a solving process may send."""

OF_A_GUEST: Mapping[str, Form] = {
    "done": {**_RESULT, "job": is_count, "seconds": is_duration, "answer": is_count},
    "model": {"job": is_count},
    "evaluate": {"job": is_count},
}
"""Frames that a sandbox may send the host once it is set up."""


def values_in(text: bytes, most: int) -> int:
    """About how many values JSON text holds, found without parsing it; what strings hold counts too up to ``most``."""
    marks = (b",", b"[", b"{")
    if sum(map(text.count, marks)) > most:
        text = _STRING.sub(b"", text)
    return sum(map(text.count, marks))
