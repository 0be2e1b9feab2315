"""Inputs and answers of a run as text for people."""

from __future__ import annotations

from sia_cli.output import shown

LONGEST = 600
"""Characters of an input or an answer that are printed."""


def short(text: str) -> str:
    """A text in one line, cut to size and harmless on a terminal."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
