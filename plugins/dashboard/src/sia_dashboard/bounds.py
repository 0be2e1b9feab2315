"""How much of what a run holds stands on a page: a run folder may come from anybody, and may hold anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import islice
from typing import Any

SHOWN = 200
"""Rows of a table, points of a chart, files, and messages of a conversation."""

MOST_TEXT = 100_000
"""Characters of a text that is shown in a box."""

MOST_WORDS = 2_000
"""Characters of a text among others: a name, a reason, an excerpt."""

LARGEST = 10**18
DEEPEST = 8


def cut(text: str, most: int = MOST_TEXT) -> str:
    """The beginning of a text, and how much more there is."""
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} more characters]"


def bounded(value: Any, depth: int = DEEPEST) -> Any:
    """A JSON value that is no larger than a page may show: texts, numbers, lists and nesting are cut."""
    if isinstance(value, str):
        return cut(value, MOST_WORDS)
    if isinstance(value, int):
        return max(-LARGEST, min(LARGEST, value)) if not isinstance(value, bool) else value
    if not isinstance(value, Mapping | list | tuple):
        return value
    if not depth:
        return "[...]"
    if isinstance(value, Mapping):
        return {cut(str(key), MOST_WORDS): bounded(each, depth - 1) for key, each in islice(value.items(), SHOWN)}
    return [bounded(each, depth - 1) for each in value[:SHOWN]]


def addressable(name: str) -> bool:
    """Whether a name can stand in an address: one whose bytes are no UTF-8 cannot."""
    return all(unicodedata.category(each) != "Cs" for each in name)
