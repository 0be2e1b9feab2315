"""A conversation as it is sent: long texts that were used long ago stand as one line each, and can be read again.

Providers cache what stands at the beginning of a request for as long as it stays the same. So texts are folded in
batches: between two of them a conversation only grows at its end, and what was folded is never changed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from sia_core.errors import excerpt
from sia_llm.models import Message, ToolCall
from sia_llm.quoting import outside
from sia_llm.toolbox import Arguments, Offered, ToolError, offer

FULL = 16_000
"""Characters of long texts that are sent in full; with more of them, a batch is folded."""

KEPT = 4_000
"""Characters of the latest long texts that a batch leaves in full. The last exchange stays, however long it is."""

LONG = 400
"""Characters from which a text is long."""

_FOLDED = re.compile(r"\[folded: [\d,]+ characters[^]\n]*\]")


class Again(Arguments):
    number: int = Field(ge=1, description="of the result, as its line says")


class Folding:
    """One conversation's. The same messages are always sent in the same form, so a resumed run asks the same."""

    def __init__(self) -> None:
        self._folded: list[Message] = []
        self._texts: list[str] = []

    @property
    def offered(self) -> Offered:
        """The tool that shows a result again."""
        about = "Read a result again that was folded into one line to keep this conversation short."
        return offer("read_result", about, Again, self._again)

    def sent(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as they are sent. ``messages`` are those of the last time and what came since."""
        fresh = messages[len(self._folded) :]
        if sum(map(_long, fresh)) > FULL:
            for message in fresh[: _until(fresh)]:
                self._folded.append(self._fold(message))
        return (*self._folded, *messages[len(self._folded) :])

    def _fold(self, message: Message) -> Message:
        if message["role"] == "tools":
            return {**message, "results": [self._line(row) for row in message["results"]], "folded": True}
        if message["role"] == "assistant":
            return {**message, "calls": [{**call, "arguments": _short(call["arguments"])} for call in message["calls"]]}
        return message

    def _line(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A result in one line: what the tool itself said in its first line, and where the rest is."""
        self._texts.append(text := row["text"])
        if len(text) < LONG:
            return row
        headline = excerpt(next(filter(None, outside(text).splitlines()), ""), LONG // 2)
        where = f"`read_result` with number {len(self._texts)} shows them again"
        return {**row, "text": f"{headline} [folded: {len(text):,} characters; {where}]".lstrip()}

    def _again(self, request: Again) -> str:
        if request.number > len(self._texts):
            raise ToolError(f"{len(self._texts)} results were folded; all others stand above in full")
        return self._texts[request.number - 1]


def refused(call: ToolCall) -> str:
    """Why a call cannot be used whose arguments repeat a folded text, for the model to read; or an empty string."""
    if any(_FOLDED.search(text) for text in _texts(call.arguments)):
        return "a text in the arguments is the line of a folded one, not the text itself; write it in full"
    return ""


def _short(arguments: Any) -> Any:
    """Arguments whose long texts are lines."""
    if isinstance(arguments, str):
        return arguments if len(arguments) < LONG else f"[folded: {len(arguments):,} characters that you wrote]"
    if isinstance(arguments, Mapping):
        return {name: _short(value) for name, value in arguments.items()}
    return [_short(value) for value in arguments] if isinstance(arguments, list) else arguments


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _long(message: Message) -> int:
    """Characters of a message's long texts."""
    if message["role"] == "tools":
        texts = [row["text"] for row in message["results"]]
    else:
        texts = _texts([call["arguments"] for call in message.get("calls", ())])
    return sum(len(text) for text in texts if len(text) >= LONG)


def _until(messages: Sequence[Message]) -> int:
    """How many messages a batch folds: all but the last exchange, and what fits before it."""
    until, length = len(messages), 0
    for place in range(len(messages) - 1, -1, -1):
        length += _long(messages[place])
        if messages[place]["role"] != "assistant":
            continue
        if length > KEPT and until < len(messages):
            break
        until = place
    return until
