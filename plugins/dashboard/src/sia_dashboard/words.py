"""How figures and texts of a run stand on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sia_core.cli import shown


def safe(value: Any) -> Any:
    """What is printed: marks that steer or hide text, from a run, as escapes. Autoescape does the rest."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
    return f"{value:,.4f}" if kind == "dollars" else f"{value:,.0f}"


@dataclass(frozen=True)
class Call:
    """A tool that a message calls."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Said:
    """A message of a conversation; ``sampled`` by the policy, or put to it."""

    role: str
    text: str
    calls: Sequence[Call]
    sampled: bool


def conversation(turns: Sequence[Mapping[str, Any]]) -> list[Said]:
    """A trajectory's turns as one conversation."""
    return [
        _said(message, sampled)
        for turn in turns
        for sampled, messages in ((False, turn["messages"]), (True, turn["replies"]))
        for message in messages
    ]


def _said(message: Mapping[str, Any], sampled: bool) -> Said:
    text, calls = _calls(str(message["content"]))
    return Said(str(message["role"]), text, calls, sampled)


def _calls(content: str) -> tuple[str, list[Call]]:
    """The text of a message, and its tool calls, which the record holds as JSON at its end."""
    place = content.find("[{")
    while place >= 0:
        try:
            found = json.loads(content[place:])
            calls = [Call(str(each["function"]["name"]), str(each["function"]["arguments"])) for each in found]
        except (ValueError, TypeError, KeyError, RecursionError):
            place = content.find("[{", place + 1)
        else:
            return content[:place], calls
    return content, []


def answer(text: str | None) -> list[tuple[str, str]]:
    """An answer for people, as labelled texts: code and prose as they are, not as JSON with its line breaks escaped."""
    if text is None:
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [("", text)]
    if isinstance(value, str):
        return [("", value)]
    if isinstance(value, dict) and any(isinstance(each, str) and "\n" in each for each in value.values()):
        return [(key, each if isinstance(each, str) else _pretty(each)) for key, each in value.items()]
    return [("", _pretty(value))]


def _pretty(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except RecursionError:
        return "nested too deeply to be shown"
