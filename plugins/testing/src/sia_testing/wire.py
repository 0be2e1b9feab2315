"""Two wire protocols of language models, as a server speaks them: Messages and Chat Completions.

Each turns a scripted :class:`Turn` into the JSON of a whole reply, or into the events
of a stream. Nothing here is of use to a client: the real SDKs are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Ended = Literal["end", "tools", "length", "refusal"]

PIECE = 40
"""Characters of a text or of a tool's arguments in one event of a stream."""


@dataclass(frozen=True)
class Use:
    """A call of the tool ``name``. ``arguments`` is JSON, or a model's text in its place, however malformed."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The arguments as a model writes them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Fault:
    """A fault instead of, or in the middle of, a reply.

    ``status`` answers with that HTTP status and ``message``, and with ``retry_after``, a number of seconds or a text.
    ``cut_after`` ends the connection after that many events of a stream, or that many bytes of a whole reply. ``pause``
    waits that many seconds before each event. ``body`` is sent in place of a reply, with ``headers``. ``whole`` sends a
    reply in one piece where a stream was asked for.
    """

    status: int | None = None
    message: str = "scripted"
    retry_after: float | str | None = None
    cut_after: int | None = None
    pause: float = 0.0
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True)
class Turn:
    """One reply: a ``text``, ``uses`` of tools, or both; how it ``ended``; its ``usage``; and the ``fault`` in it.

    ``ended`` None is ``tools`` or ``end``, by whether there are uses. ``usage`` are input, output, cache_read and
    cache_write tokens; what is not there is counted, a token for each four characters.
    """

    text: str = ""
    uses: Sequence[Use] = ()
    ended: Ended | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    fault: Fault | None = None

    @property
    def how(self) -> Ended:
        """How the reply ended: as the script says, else by whether it calls tools."""
        return self.ended or ("tools" if self.uses else "end")

    def used(self, body: Mapping[str, Any]) -> dict[str, int]:
        """The usage figures, for what was asked."""
        text = self.text + "".join(use.text for use in self.uses)
        counted = {"input": len(json.dumps(body)) // 4, "output": len(text) // 4 + 1, "cache_read": 0}
        return {**counted, "cache_write": 0, **self.usage}


class Messages:
    """The Messages protocol, ``POST /v1/messages``."""

    path = "/v1/messages"
    _STOPS: Mapping[str, str] = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens", "refusal": "refusal"}

    def whole(self, turn: Turn, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of a whole reply."""
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", ""),
            "content": [
                *([{"type": "text", "text": turn.text}] if turn.text else []),
                *(self._use(use, number, place, _object(use.text)) for place, use in enumerate(turn.uses)),
            ],
            "stop_reason": self._STOPS[turn.how],
            "stop_sequence": None,
            "usage": self._usage(turn.used(body)),
        }

    def events(self, turn: Turn, number: int, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of a stream, as bytes."""
        whole, used = self.whole(turn, number, body), turn.used(body)
        begun = {**whole, "content": [], "stop_reason": None, "usage": self._usage({**used, "output": 1})}
        yield _event("message_start", message=begun)
        blocks: list[tuple[dict[str, Any], str, str, str]] = []
        if turn.text:
            blocks.append(({"type": "text", "text": ""}, "text_delta", "text", turn.text))
        for place, use in enumerate(turn.uses):
            blocks.append((self._use(use, number, place, {}), "input_json_delta", "partial_json", use.text))
        for index, (block, kind, name, text) in enumerate(blocks):
            yield _event("content_block_start", index=index, content_block=block)
            for piece in _pieces(text):
                yield _event("content_block_delta", index=index, delta={"type": kind, name: piece})
            yield _event("content_block_stop", index=index)
        end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield _event("message_delta", delta=end, usage={"output_tokens": used["output"]})
        yield _event("message_stop")

    def error(self, status: int, message: str) -> dict[str, Any]:
        """The JSON of an error with an HTTP status."""
        kinds = {401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
        kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def _use(self, use: Use, number: int, place: int, arguments: Any) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"toolu_{number}_{place}", "name": use.name, "input": arguments}

    def _usage(self, used: Mapping[str, int]) -> dict[str, int]:
        return {
            "input_tokens": used["input"],
            "output_tokens": used["output"],
            "cache_read_input_tokens": used["cache_read"],
            "cache_creation_input_tokens": used["cache_write"],
        }


class ChatCompletions:
    """The Chat Completions protocol, ``POST /v1/chat/completions``."""

    path = "/v1/chat/completions"
    _STOPS: Mapping[str, str] = {"end": "stop", "tools": "tool_calls", "length": "length", "refusal": "content_filter"}

    def whole(self, turn: Turn, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of a whole reply."""
        message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
        if turn.uses:
            message["tool_calls"] = self._calls(turn, number)
        choice = {"index": 0, "message": message, "finish_reason": self._STOPS[turn.how], "logprobs": None}
        return {**self._head("chat.completion", number, body), "choices": [choice], "usage": self._usage(turn, body)}

    def events(self, turn: Turn, number: int, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of a stream, as bytes."""
        head = self._head("chat.completion.chunk", number, body)
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _pieces(turn.text)]
        for index, call in enumerate(self._calls(turn, number)):
            named = {**call["function"], "arguments": ""}
            deltas.append({"tool_calls": [{**call, "index": index, "function": named}]})
            pieces = _pieces(call["function"]["arguments"])
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
        for delta in deltas:
            yield _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _data({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": self._STOPS[turn.how]}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _data({**head, "choices": [], "usage": self._usage(turn, body)})
        yield b"data: [DONE]\n\n"

    def error(self, status: int, message: str) -> dict[str, Any]:
        """The JSON of an error with an HTTP status."""
        return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}

    def _head(self, kind: str, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": f"chatcmpl-{number}", "object": kind, "created": 0, "model": body.get("model", "")}

    def _calls(self, turn: Turn, number: int) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{number}_{place}",
                "type": "function",
                "function": {"name": use.name, "arguments": use.text},
            }
            for place, use in enumerate(turn.uses)
        ]

    def _usage(self, turn: Turn, body: Mapping[str, Any]) -> dict[str, Any]:
        used = turn.used(body)
        prompt = used["input"] + used["cache_read"] + used["cache_write"]  # this protocol counts them together
        return {
            "prompt_tokens": prompt,
            "completion_tokens": used["output"],
            "total_tokens": prompt + used["output"],
            "prompt_tokens_details": {"cached_tokens": used["cache_read"]},
        }


Protocol = Messages | ChatCompletions


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **data})


def _data(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
