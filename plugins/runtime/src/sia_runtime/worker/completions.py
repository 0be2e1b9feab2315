"""Chat completions as the OpenAI API shapes them: replies, the chunks of a stream, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sia_core.errors import SiaError

MODEL = "policy"
"""The one model that there is; a request may name any."""

Message = dict[str, Any]


class Refused(SiaError):
    """A call that is not answered: the message, and the field of the request that it is about."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.kind = param, code, kind

    def body(self) -> dict[str, Any]:
        """The error object of the API."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def tool_call(name: str, function: str, arguments: Any) -> Message:
    """A call of a tool, ``name`` being its id."""
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


def completion(
    name: str,
    choices: Iterable[tuple[Message, str, Mapping[str, Any] | None]],
    tokens: tuple[int, int],
    *,
    model: str = MODEL,
    created: int = 0,
) -> dict[str, Any]:
    """A completion of ``choices``, each a message, the reason for its end, and its log-probabilities.

    ``tokens`` counts those of the prompt and of the reply. ``created`` is 0 where a reply has to be
    the same whenever it is made.
    """
    prompt, reply = tokens
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {"index": index, "message": _outgoing(message), "finish_reason": finish, "logprobs": logprobs}
            for index, (message, finish, logprobs) in enumerate(choices)
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
        },
    }


def _outgoing(message: Message) -> Message:
    """A message as a reply holds it."""
    if "tool_calls" not in message:
        return {**message, "refusal": None}
    calls = [{**call, "function": _written(call["function"])} for call in message["tool_calls"]]
    return {"role": "assistant", "content": message["content"] or None, "refusal": None, "tool_calls": calls}


def _written(function: Mapping[str, Any]) -> dict[str, Any]:
    """A call's name, and its arguments as text. Text that is not JSON goes out unchanged."""
    value = function["arguments"]
    return {**function, "arguments": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def chunks(whole: Mapping[str, Any], *, usage: bool) -> list[dict[str, Any]]:
    """A completion for a client that streams: the text of each choice, the reason for its end, the count of tokens."""
    shared = {**whole, "object": "chat.completion.chunk"}
    del shared["usage"]
    parts = []
    for choice in whole["choices"]:
        message = {name: value for name, value in choice["message"].items() if name != "refusal"}
        if "tool_calls" in message:
            message["tool_calls"] = [{**call, "index": at} for at, call in enumerate(message["tool_calls"])]
        about = {"index": choice["index"], "logprobs": choice["logprobs"]}
        parts.append({**shared, "choices": [{**about, "delta": message, "finish_reason": None}]})
        end = {"index": choice["index"], "logprobs": None, "delta": {}, "finish_reason": choice["finish_reason"]}
        parts.append({**shared, "choices": [end]})
    return [*parts, {**shared, "choices": [], "usage": whole["usage"]}] if usage else parts


def events(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """Chunks as the server-sent events of a stream."""
    return "".join(f"data: {line}\n\n" for line in (*map(json.dumps, parts), "[DONE]")).encode()
