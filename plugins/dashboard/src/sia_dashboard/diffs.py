"""Source and unified diffs as lines for a page: Pygments says what each piece is, the style sheet its colour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pygments.lexer import Lexer
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String, _TokenType

MOST, WIDEST, MOST_TEXT = 4000, 1000, 200_000
"""Lines of a diff or file that a page shows, characters of a line, and of all. The rest is counted, not coloured."""

_KINDS = (
    (Comment, "comment"),
    (Keyword, "keyword"),
    (String, "string"),
    (Number, "number"),
    (Name.Function, "name"),
    (Name.Class, "name"),
)


@dataclass(frozen=True)
class Piece:
    """Some text of a line, and its class; empty for plain text."""

    text: str
    kind: str


@dataclass(frozen=True)
class Line:
    """A line of source or of a diff: ``added``, ``removed``, ``hunk``, ``file`` or plain."""

    kind: str
    mark: str
    pieces: Sequence[Piece]


def source(name: str, text: str) -> list[Line]:
    """A file's lines, coloured by its name."""
    lines, more = _cut(text)
    coloured = _coloured("\n".join(lines), _lexer(name))
    return [*(Line("", "", pieces) for pieces in coloured), *more]


def diff(text: str) -> list[Line]:
    """A unified diff's lines; each side of a hunk is coloured as a whole, so that strings over lines are seen."""
    output: list[Line] = []
    lexer: Lexer | None = None
    hunk: list[str] = []
    lines, more = _cut(text)
    for line in lines:
        if line.startswith(("--- ", "+++ ", "diff ", "Binary ", "new file", "deleted file")):
            output += _hunk(hunk, lexer)
            hunk = []
            output.append(Line("file", "", [Piece(line, "")]))
            if line.startswith(("+++ b/", "--- a/")):
                lexer = _lexer(line[6:].rstrip("\t"))
        elif line.startswith("@@"):
            output += _hunk(hunk, lexer)
            hunk = []
            output.append(Line("hunk", "", [Piece(line, "")]))
        elif line:
            hunk.append(line)
    return [*output, *_hunk(hunk, lexer), *more]


def _cut(text: str) -> tuple[list[str], list[Line]]:
    """The lines to show, cut before anything looks at them, and one that says how much there is beside them."""
    text, remaining = text[:MOST_TEXT], max(0, len(text) - MOST_TEXT)
    lines = text.split("\n", MOST)
    rest = remaining + sum(max(0, len(line) - WIDEST) for line in lines[:MOST]) + sum(map(len, lines[MOST:]))
    return [line[:WIDEST] for line in lines[:MOST]], [beyond(rest)] if rest else []


def beyond(rest: int) -> Line:
    """A line that says how much is not shown."""
    return Line("hunk", "", [Piece(f"[... {rest:,} more characters]", "")])


def _hunk(lines: Sequence[str], lexer: Lexer | None) -> Iterator[Line]:
    sides = {mark: iter(_coloured("\n".join(_side(lines, mark)), lexer)) for mark in "-+"}
    for line in lines:
        mark, text = line[0], line[1:]
        if mark in "-+":
            yield Line("removed" if mark == "-" else "added", mark, next(sides[mark], [Piece(text, "")]))
        elif mark == " ":
            next(sides["-"], None)
            yield Line("", " ", next(sides["+"], [Piece(text, "")]))
        else:  # such as "\ No newline at end of file"
            yield Line("hunk", "", [Piece(line, "")])


def _side(lines: Sequence[str], mark: str) -> list[str]:
    return [line[1:] for line in lines if line[0] in (mark, " ")]


def _coloured(text: str, lexer: Lexer | None) -> list[list[Piece]]:
    """The lines of a text in pieces."""
    if lexer is None:
        return [[Piece(line, "")] for line in text.split("\n")]
    lines: list[list[Piece]] = [[]]
    # White space over many lines takes the lexer a time that grows with its square.
    code = "\n".join(line if line.strip() else "" for line in text.split("\n"))
    for token, value in lexer.get_tokens(code):
        for number, part in enumerate(re.split("\n", value)):
            if number:
                lines.append([])
            if part:
                _join(lines[-1], Piece(part, _kind(token)))
    return lines[:-1]  # the lexer ends a text with a newline


def _join(line: list[Piece], piece: Piece) -> None:
    if line and line[-1].kind == piece.kind:
        line[-1] = Piece(line[-1].text + piece.text, piece.kind)
    else:
        line.append(piece)


def _kind(token: _TokenType) -> str:
    return next((kind for parent, kind in _KINDS if token in parent), "")


def _lexer(name: str) -> Lexer | None:
    # Python alone: whoever names a file would else choose among hundreds of lexers, some of them slow on some texts.
    return PythonLexer(stripnl=False, ensurenl=True) if name.endswith(".py") else None
