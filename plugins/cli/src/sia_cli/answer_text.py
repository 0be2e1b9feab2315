"""Inputs and answers of a run as text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sia_cli.output import shown
from sia_runtime.answers import InvalidAnswer, plain_json

LONGEST = 600
"""Characters of an input or an answer that are printed."""


def value_of(answer: str | None) -> Any:
    """The value of a recorded answer; its text where that is no JSON, or is nested too deeply to be printed."""
    try:
        return plain_json(answer or "null")
    except InvalidAnswer:
        return answer


def words(value: Any) -> str:
    """An input that is one text, as it is; any other as JSON."""
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short(text: str) -> str:
    """A text in one line, cut to size and harmless on a terminal."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
