"""Reading what untrusted code wrote: strict JSON, bounded in size and depth, then the task's own model."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError

MAX_DEPTH = 64
MAX_DIGITS = 300

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class InvalidAnswer(Exception):
    """An answer is not what the task asked for; the text says why, for the harness's author."""


def strict_json(text: str) -> Any:
    """Parse JSON. InvalidAnswer for duplicate keys, NaN, infinities (also as 1e999), deep nesting, half characters."""
    if _depth(text) > MAX_DEPTH:
        raise InvalidAnswer(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite, parse_int=_exact
        )
        text.encode()
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidAnswer("not Unicode: half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"not JSON: {error}") from None
    return value


def read_answer(text: str, model: type[BaseModel]) -> Any:
    """An answer as plain JSON, validated in strict mode: no booleans as numbers, no numbers as strings."""
    value = strict_json(text)
    try:
        answer = model.model_validate_json(json.dumps(value), strict=True)
        _check_booleans(value, answer.model_dump(mode="json", by_alias=True), ())
        return answer.model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidAnswer(f"{where}: {first['msg'][:300]}" if where else first["msg"][:300]) from None


def _check_booleans(written: Any, read: Any, path: tuple[object, ...]) -> None:
    """Literals and enumerations compare by value, for which ``true`` is 1 even in strict mode."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key in written.keys() & read.keys():
            _check_booleans(written[key], read[key], (*path, key))
    elif isinstance(written, list) and isinstance(read, list):
        for index, (one, other) in enumerate(zip(written, read, strict=False)):
            _check_booleans(one, other, (*path, index))
    elif {type(written), type(read)} in ({bool, int}, {bool, float}):
        where = f"{'.'.join(map(str, path))}: " if path else ""
        raise InvalidAnswer(f"{where}a boolean is no number, nor the reverse")


def _depth(text: str) -> int:
    """An upper bound of the nesting, cheap enough to run on megabytes before the parser recurses."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        match found.group():
            case "[" | "{":
                depth += 1
                deepest = max(deepest, depth)
            case "]" | "}":
                depth -= 1
    return deepest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidAnswer("an object has the same key twice")
    return value


def _no_constant(name: str) -> Any:
    raise InvalidAnswer(f"{name} is not a number here")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidAnswer(f"{text[:40]} is not a finite number")
    return value


def _exact(text: str) -> int:
    if len(text) > MAX_DIGITS:  # a model with a float field would make it an infinity
        raise InvalidAnswer(f"an integer has {len(text)} digits; at most {MAX_DIGITS} are read")
    return int(text)
