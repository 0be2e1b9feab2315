"""Reading JSON that untrusted code wrote: one meaning, finite numbers, bounded depth. The standard library alone."""

from __future__ import annotations

import json
import re
from functools import lru_cache, partial
from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NO_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class NotStrict(ValueError):
    """A text is not JSON, or has more than one meaning. The message says why, without quoting much of it."""


def parse(text: str, depth: int, *, digits: int | None = None, halves: bool = False) -> Any:
    """Parse JSON nested at most ``depth`` levels, with integers of at most ``digits``. NotStrict for anything else.

    Refused are also duplicate keys, NaN and infinities (``1e999`` too), and halves of surrogate
    pairs; with ``halves``, a string may hold one, which the caller has to repair.
    """
    if text.count("[") + text.count("{") > depth and _depth(text) > depth:
        raise NotStrict(f"nested deeper than {depth} levels")
    try:
        value = _decoder(digits).decode(text)
    except NotStrict:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrict(f"not JSON: {str(error)[:200]}") from None
    if not halves:
        try:
            text.encode()
            if "\\u" in text:
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotStrict("not Unicode: half of a surrogate pair") from None
    return value


@lru_cache(maxsize=8)
def _decoder(digits: int | None) -> json.JSONDecoder:
    """Cached, since :func:`json.loads` would make one a call."""
    return json.JSONDecoder(
        object_pairs_hook=_no_duplicates,
        parse_constant=_no_constant,
        parse_float=_finite,
        parse_int=None if digits is None else partial(_exact, digits),
    )


def _depth(text: str) -> int:
    """An upper bound of the nesting, cheap enough to run on megabytes before the parser recurses."""
    return max(accumulate(map(_STEP.__getitem__, _NO_BRACKET.sub("", text))), default=0)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotStrict("an object has the same key twice")
    return value


def _no_constant(name: str) -> Any:
    raise NotStrict(f"{name} is not a number here")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise NotStrict(f"{text[:40]} is not a finite number")
    return value


def _exact(digits: int, text: str) -> int:
    if len(text) > digits:  # a model with a float field would make it an infinity
        raise NotStrict(f"an integer has {len(text)} digits; at most {digits} are read")
    return int(text)
