"""Remedies and notices for people, which other distributions have: the core has no table of them and knows no sandbox.

Whatever gives them is an entry point of the group ``sia_advice``, a function that returns a list of texts:

- ``distribution(kind, name)``: the distributions that have an offer that is not installed here.
- ``names(kind)``: the names of all offers of a kind that could have been meant.
- ``import(error)``: endings for the message of an import that failed in a plugin.
- ``rollout(message)``: the lines that explain the message of a rollout that failed, this message first.
- ``task(task)``: a sentence for each thing that the user of a task may not expect, as a run starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import EntryPoint, distributions
from typing import Any

GROUP = "sia_advice"


def advice(about: str, *details: Any) -> list[str]:
    """The texts that the installed distributions have on something; imported when they are asked for."""
    return [text for point in dict.fromkeys(entries(GROUP, about)) for text in point.load()(*details)]


def entries(group: str, name: str) -> Iterator[EntryPoint]:
    """The entry points of a group by this name. A distribution whose entry points cannot be read is left out."""
    for each in distributions():
        with suppress(Exception):  # they are malformed, which `sia plugins` lists
            if f"[{group}]" in (each.read_text("entry_points.txt") or ""):
                yield from each.entry_points.select(group=group, name=name)
