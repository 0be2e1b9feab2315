"""Replies of a model server, before anything is made of them: how much one may be, and which tokens are a sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeGuard

from sia_runtime.sandbox.frames import values_in

MOST_BYTES = 64 * 2**20
"""Of one reply, with all that is wrapped around it."""

MOST_VALUES = 2**20
"""Of one JSON document, as in memory a value of two characters takes a hundred bytes."""

LARGEST_ID = 2**31 - 1
"""The largest id of a token where nobody knows the vocabulary's size."""

_LEAST, _ROUNDING = -1e9, 0.01
"""The bounds of a log-probability: minus infinity is none, and rounding may lift one above 0."""


def parsed(text: str, most: int = MOST_VALUES) -> Any:
    """The value of JSON text; ValueError where it is none, is nested too deep, or holds more than ``most`` values."""
    # No text has more values than characters, so most texts are not counted.
    if len(text) > most and values_in(text.encode(errors="replace"), most) > most:
        raise ValueError(f"it holds more than {most:,} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_logprob(value: object) -> TypeGuard[float]:
    """Whether this is a number that a token's log-probability can be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _LEAST <= value <= _ROUNDING


def token_limit(value: object) -> int | None:
    """How many tokens a server says that a model can have together; None where it says nothing of that kind."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def sampled_tokens(
    ids: object, logprobs: object, most: int, vocabulary: int = LARGEST_ID + 1
) -> tuple[list[int], list[float]]:
    """The ids and log-probabilities of a sample of at most ``most`` tokens; ValueError where they are none.

    A sample has at least the token that ends it.
    """
    if not isinstance(ids, Sequence) or not isinstance(logprobs, Sequence) or isinstance(ids, str):
        raise ValueError("there are no ids or no log-probabilities of its tokens")
    if not 1 <= len(ids) <= most:
        raise ValueError(f"it has {len(ids):,} tokens, of at most {most:,} that were asked for")
    if len(ids) != len(logprobs):
        raise ValueError(f"it has {len(logprobs):,} log-probabilities of {len(ids):,} tokens")
    if not all(type(each) is int and 0 <= each < vocabulary for each in ids):
        raise ValueError(f"a token is no id of a vocabulary of {vocabulary:,}")
    if not all(map(is_logprob, logprobs)):
        raise ValueError("a log-probability is none: it is no number, above 0 or without end")
    return list(ids), [float(each) for each in logprobs]
