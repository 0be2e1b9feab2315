"""Chat completions as the OpenAI API shapes them: requests checked, tool calls found, replies and errors built.

Two fields are ours: ``choices``, strings that the reply is constrained to, and
``prior``, log-weights that multiply the policy's own probabilities of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.errors import SiaError
from sia_core.learning import Sampled

MODEL = "policy"
"""The one model that there is; a request may name any."""

MAX_TOKENS = 32_768

_TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)

_CANONICAL = json.JSONEncoder(sort_keys=True)

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


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Function(_Strict):
    name: str
    arguments: str


class _ToolCall(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(_Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_ToolCall] | None = None
    # What clients send back of a reply, always empty here.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class _Signature(_Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Strict):
    type: Literal["function"]
    function: _Signature


class _Schema(_Strict):
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class _Format(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(_Strict):
    include_usage: bool | None = None


class _Body(_Strict):
    """What a request may hold. Fields that a policy cannot heed are accepted where they ask for nothing."""

    messages: list[_Message] = Field(min_length=1)
    model: str = MODEL
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1, le=64)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=0)
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    top_p: float | None = Field(default=None, ge=1, le=1)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    choices: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1, max_length=4096)
    prior: list[float] | None = None


@dataclass(frozen=True)
class Chat:
    """A checked request.

    ``digests`` name the conversation up to and with each message, tools included;
    ``digest`` names the whole request as far as it bears on what is sampled.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    n: int
    logprobs: bool
    max_tokens: int
    temperature: float | None
    stop: tuple[str, ...]
    choices: tuple[str, ...]
    prior: tuple[float, ...]
    schema: Mapping[str, Any] | None
    digests: Sequence[bytes]
    digest: bytes

    def after(self, reply: Message) -> bytes:
        """The name of the conversation with the reply."""
        return _chained(self.digests[-1], reply)


def parse(request: Mapping[str, Any]) -> Chat:
    """Check a request; Refused, with the field's name, where it is not one.

    ``seed`` is checked and ignored: the rollout's own seed decides.
    """
    try:
        body = _Body.model_validate(request)
    except ValidationError as error:
        raise _refusal(error) from None
    messages = [_normal(message) for message in body.messages]
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    digests = [_chained(b"", tools)]
    for message in messages:
        digests.append(_chained(digests[-1], message))
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    _check_stop(stop)
    _check_prior(body)
    settings: dict[str, Any] = {
        "max_tokens": body.max_completion_tokens or body.max_tokens or 256,
        "temperature": body.temperature,
        "stop": tuple(stop),
        "choices": tuple(body.choices or ()),
        "prior": tuple(body.prior or ()),
        "schema": _schema(body.response_format),
    }
    digest = _chained(digests[-1], settings)
    return Chat(messages, tools, body.n or 1, bool(body.logprobs), **settings, digests=digests[1:], digest=digest)


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > 4 or not all(0 < len(each) <= 100 for each in stop):
        raise Refused("stop: give at most 4 strings of 1 to 100 characters", "stop")


def _check_prior(body: _Body) -> None:
    if body.choices and len(set(body.choices)) < len(body.choices):
        raise Refused("choices: one is there twice", "choices")
    if body.prior is not None and len(body.prior) != len(body.choices or ()):
        raise Refused(f"prior: give one log-weight a choice; {len(body.prior)} do not fit", "prior")
    if body.choices and body.response_format and body.response_format.type != "text":
        raise Refused("response_format: cannot be had together with choices", "response_format")


def _schema(asked: _Format | None) -> dict[str, Any] | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "object"}
    if asked.json_schema is None:
        raise Refused("response_format.json_schema: is missing", "response_format.json_schema")
    return asked.json_schema.schema_


def _normal(message: _Message) -> Message:
    """A message as tokenizers render it: content is text, the arguments of a tool call are JSON values."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    normal: Message = {"role": message.role, "content": text}
    if message.name is not None:
        normal["name"] = message.name
    if message.tool_call_id is not None:
        normal["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        normal["tool_calls"] = [
            _tool_call(call.id, call.function.name, _arguments(call.function.arguments)) for call in message.tool_calls
        ]
    return normal


def _tool_call(name: str, function: str, arguments: Any) -> Message:
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _chained(before: bytes, value: Any) -> bytes:
    return hashlib.sha256(before + _CANONICAL.encode(value).encode()).digest()


def _refusal(error: ValidationError) -> Refused:
    first = error.errors(include_url=False, include_input=False)[0]
    # A union's location names its members too, which are no fields.
    place = [str(each) for each in first["loc"] if not isinstance(each, str) or each.isidentifier()]
    param = ".".join(each for each in place if each not in ("str", "_Part"))
    if first["type"] == "extra_forbidden":
        return Refused(f"{param}: this field is not known here; leave it out", param, "unknown_parameter")
    return Refused(f"{param}: {first['msg']}", param)


def said(text: str, name: str, *, tools: bool) -> Message:
    """The assistant's message that a sampled text is, in the form that :func:`parse` gives messages.

    Where the request had tools, a JSON object ``{"name", "arguments"}`` between
    ``<tool_call>`` and ``</tool_call>`` is a tool call; ``name`` begins the ids of calls.
    """
    calls: list[Message] = []

    def take(found: re.Match[str]) -> str:
        call = _arguments(found[1])
        if not (isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call):
            return found[0]
        calls.append(_tool_call(f"call_{name}_{len(calls)}", call["name"], call["arguments"]))
        return ""

    rest = _TOOL_CALL.sub(take, text) if tools else text
    return (
        {"role": "assistant", "content": rest.strip(), "tool_calls": calls}
        if calls
        else {
            "role": "assistant",
            "content": text,
        }
    )


def reply(
    chat: Chat,
    name: str,
    continuations: Sequence[tuple[Message, Sampled]],
    prompt_tokens: int,
    decode: Callable[[Sequence[int]], str],
) -> dict[str, Any]:
    """A completion. ``continuations`` are what :func:`said` made of each sample, and the sample."""
    sampled_tokens = sum(len(sampled.tokens) for _, sampled in continuations)
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": 0,  # a reply is the same whenever it is made
        "model": MODEL,
        "choices": [
            {
                "index": index,
                "message": outgoing(message),
                "finish_reason": "tool_calls" if "tool_calls" in message else sampled.finish,
                "logprobs": _logprobs(sampled, decode) if chat.logprobs else None,
            }
            for index, (message, sampled) in enumerate(continuations)
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sampled_tokens,
            "total_tokens": prompt_tokens + sampled_tokens,
        },
    }


def outgoing(message: Message) -> Message:
    """A message as a reply holds it."""
    if "tool_calls" not in message:
        return {**message, "refusal": None}
    calls = [
        _tool_call(call["id"], call["function"]["name"], json.dumps(call["function"]["arguments"], ensure_ascii=False))
        for call in message["tool_calls"]
    ]
    return {"role": "assistant", "content": message["content"] or None, "refusal": None, "tool_calls": calls}


def _logprobs(sampled: Sampled, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    texts = [decode([token]) for token in sampled.tokens]
    content = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in zip(texts, sampled.logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


def chunks(whole: Mapping[str, Any], *, usage: bool) -> list[dict[str, Any]]:
    """A completion as a client that streams gets it: what each choice says, how it ended, and the count of tokens."""
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
