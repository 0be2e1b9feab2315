"""Reading what untrusted code wrote: strict JSON, bounded in size and depth, then the task's own model."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ValidationError

from sia_core.errors import UsageError
from sia_runtime.sandbox.strict_json import NotStrict, parse

MAX_DEPTH = 64
MAX_DIGITS = 300

MOST_SECONDS = 1e7
"""Of a time limit: some months, which every clock can count."""


class InvalidAnswer(Exception):
    """An answer is not what the task asked for; the text says why, for the harness's author."""


def strict_json(text: str) -> Any:
    """Parse JSON. InvalidAnswer for duplicate keys, NaN, infinities (also as 1e999), deep nesting, half characters."""
    return _parse(text, halves=False)


def plain_json(text: str) -> Any:
    """As :func:`strict_json`, but a string may hold half of a surrogate pair, which the caller has to repair."""
    return _parse(text, halves=True)


def _parse(text: str, *, halves: bool) -> Any:
    try:
        return parse(text, MAX_DEPTH, digits=MAX_DIGITS, halves=halves)
    except NotStrict as error:
        raise InvalidAnswer(str(error)) from None


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


def _check_booleans(written: Any, value: Any, path: tuple[object, ...]) -> None:
    """Literals and enumerations compare by value, for which ``true`` is 1 even in strict mode."""
    if isinstance(written, dict) and isinstance(value, dict):
        for key in written.keys() & value.keys():
            _check_booleans(written[key], value[key], (*path, key))
    elif isinstance(written, list) and isinstance(value, list):
        for index, (one, other) in enumerate(zip(written, value, strict=False)):
            _check_booleans(one, other, (*path, index))
    elif {type(written), type(value)} in ({bool, int}, {bool, float}):
        where = f"{'.'.join(map(str, path))}: " if path else ""
        raise InvalidAnswer(f"{where}a boolean is no number, nor the reverse")


def time_limit(text: str, where: str) -> float:
    """Seconds that a user wrote; UsageError where they are none."""
    seconds = number(text)
    if seconds is None or not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"{where}: {text!r} is no time limit; give seconds, such as 300")
    return seconds


def number(value: Any) -> float | None:
    """A JSON number, or a string that spells one; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        figure = float(value)
    except (ValueError, OverflowError):
        return None
    return figure if math.isfinite(figure) else None


def value_of(answer: str | None) -> Any:
    """The value of a recorded answer; its text where that is no JSON, or is nested too deeply to be printed."""
    try:
        return plain_json(answer or "null")
    except InvalidAnswer:
        return answer
