"""How figures and texts of a run stand on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from markupsafe import Markup

from sia_cli.output import shown
from sia_dashboard.bounds import MOST_TEXT, SHOWN, cut

MOST_MESSAGE = 20_000
"""Characters of a message."""

MOST_EXCERPT = 120
"""Characters of a value in a table."""

CALLS_TRIED = 8
"""Places in a message at which its tool calls may begin. Each costs a reading of what follows."""


def safe(value: Any) -> Any:
    """A value to print: cut, with marks that steer or hide text as escapes. Autoescape does the rest."""
    return shown(cut(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def figure(value: float, sign: str = "") -> str:
    """A number with four places, or in powers of ten where these would say little; a count as it is."""
    if isinstance(value, int):
        return f"{value:{sign},}"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:{sign}.3g}"
    return f"{value:{sign}.4f}"


def interval(value: Mapping[str, Any], sign: str = "") -> str:
    """A figure with its interval."""
    low, high = value["ci95"]
    return f"{value['value']:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def count(value: float) -> str:
    """A whole number, its thousands apart."""
    return f"{value:,.0f}"


def amount(value: float, kind: str) -> str:
    """So much of what a budget or an estimate counts."""
    if kind == "memory":
        return f"{value / 2**20:,.0f} MiB"
    if kind == "seconds":
        return duration(value)
    return f"{value:,.4f}" if kind == "dollars" else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Call:
    """A tool that a message calls."""

    name: str
    arguments: str


@dataclass(frozen=True)
class ShownMessage:
    """A message of a conversation; ``sampled`` by the policy, or put to it."""

    role: str
    text: str
    calls: Sequence[Call]
    sampled: bool


def conversation(turns: Sequence[Mapping[str, Any]]) -> list[ShownMessage]:
    """A trajectory's turns as one conversation: its beginning, where it is long."""
    entries = (
        _said(message, sampled)
        for turn in turns
        for sampled, messages in ((False, turn["messages"]), (True, turn["replies"]))
        for message in messages
    )
    return list(islice(entries, SHOWN))


def _said(message: Mapping[str, Any], sampled: bool) -> ShownMessage:
    content = str(message["content"])
    text, calls = _calls(content) if len(content) <= MOST_MESSAGE else (cut(content, MOST_MESSAGE), [])
    return ShownMessage(str(message["role"]), text, calls, sampled)


def _calls(content: str) -> tuple[str, list[Call]]:
    """The text of a message, and its tool calls, which the record holds as JSON at its end."""
    place = content.find("[{")
    for _ in range(CALLS_TRIED):
        if place < 0:
            break
        try:
            entries = json.loads(content[place:])
            named = ((each["function"]["name"], each["function"]["arguments"]) for each in entries[:SHOWN])
            calls = [Call(str(name), str(arguments)) for name, arguments in named]
        except (ValueError, TypeError, KeyError, RecursionError):
            place = content.find("[{", place + 1)
        else:
            return content[:place], calls
    return content, []


def answer(text: str | None) -> list[tuple[str, str]]:
    """An answer for people, as labelled texts: code and prose as they are, not as JSON with its line breaks escaped."""
    if text is None:
        return []
    if len(text) > MOST_TEXT:
        return [("", text)]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return [("", text)]
    return value(content)


def value(content: Any) -> list[tuple[str, str]]:
    """A JSON value for people, as labelled texts."""
    if isinstance(content, str):
        return [("", content)]
    if isinstance(content, dict) and any(isinstance(each, str) and "\n" in each for each in content.values()):
        return fields(content)
    return [("", _pretty(content))]


def fields(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields of a JSON object for people, as labelled texts."""
    return [(key, each if isinstance(each, str) else _pretty(each)) for key, each in islice(content.items(), SHOWN)]


def excerpt(content: Any) -> str:
    """A JSON value in one short line; of an object with one field that field."""
    if isinstance(content, Mapping) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, str):
        try:
            content = "".join(islice(json.JSONEncoder(ensure_ascii=False).iterencode(content), MOST_EXCERPT))
        except RecursionError:
            return "nested too deeply to be shown"
    return " ".join(content[: 2 * MOST_EXCERPT].split())[:MOST_EXCERPT]


def _pretty(value: Any) -> str:
    """Indented JSON, as far as a page shows it: what is nested deeply is mostly indents."""
    text = ""
    try:
        for part in json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(value):
            text += part
            if len(text) > MOST_TEXT:
                return f"{text[:MOST_TEXT]} [...]"
    except RecursionError:
        return "nested too deeply to be shown"
    return text
