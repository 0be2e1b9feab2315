"""How host and guest talk: frames of a small JSON header and a body, over a stream.

A frame is two big-endian 32-bit lengths, the header, and the body. The reader
checks both lengths before it buffers anything; the other end may be hostile.
"""

from __future__ import annotations

import json
import struct

Header = dict[str, object]

PREFIX = struct.Struct(">II")
HEADER_BYTES = 256 * 1024
MODEL_BYTES = 4 * 2**20
_MAX_DEPTH = 100


_LIMITS_HIT = ("timeout", "memory", "processes", "disk", "flood", "answer-too-large")
_FAULTS = ("crash", "killed", "not-json", "protocol")
OUTCOMES = frozenset(("ok", *_LIMITS_HIT, *_FAULTS))
"""What may come of one instance; a set-up that fails is told apart from these."""

MAX_STEP_REWARDS = 2000


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
    """Parse JSON that means one thing: no NaN or infinity, no key twice, no bomb of depth.

    Raises ProtocolError, whatever the text.
    """
    try:
        value: object = _DECODER.decode(text.decode())
    except ProtocolError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {type(error).__name__}: {str(error)[:200]}") from None
    if text.count(b"[") + text.count(b"{") > _MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in text:
        _check_unicode(value)
    return value


def check_result(header: Header) -> None:
    """ProtocolError unless outcome, message and step rewards are of their kinds."""
    if header.get("outcome") not in OUTCOMES or not isinstance(header.get("message"), str):
        raise ProtocolError("a result without a known outcome")
    rewards = header.get("rewards")
    if not isinstance(rewards, list) or len(rewards) > MAX_STEP_REWARDS or not all(map(is_number, rewards)):
        raise ProtocolError("step rewards that are not numbers")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number of sane size, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _no_constant(name: str) -> object:
    raise ProtocolError(f"not JSON: {name}")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ProtocolError(f"not a finite number: {text[:40]}")
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ProtocolError("not JSON that means one thing: an object has a key twice")
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise ProtocolError(f"JSON nested more than {_MAX_DEPTH} deep")


def _check_unicode(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ProtocolError("not Unicode: half of a surrogate pair") from None


# Made once: the json module makes one a call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates)
