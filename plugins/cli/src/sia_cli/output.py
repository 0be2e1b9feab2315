"""Text for terminals and JSON for programs, harmless whatever a run has put into them."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters beside tab and newline, marks that turn the direction of text, and halves of surrogate pairs.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: object) -> str:
    """Text as a terminal may have it: what would steer the terminal, or hide other text, as escapes."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def plain(*parts: str | tuple[str, str]) -> Text:
    """Text to print as it stands, whatever brackets a run put into it. A part with a style is a pair."""
    from rich.text import Text

    return Text.assemble(*(shown(each) if isinstance(each, str) else (shown(each[0]), each[1]) for each in parts))


def console() -> Console:
    """Standard output for people; wide enough for tables where it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def print_json(value: object) -> None:
    """JSON for programs, on standard output; as harmless on a terminal as other text."""
    import json

    # An escape that an encoding made of a character would not be JSON's.
    narrow = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(value, indent=2, ensure_ascii=narrow)
    print(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
