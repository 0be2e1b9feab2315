"""Requests for chat completions, checked; and the messages and tool calls in what a policy samples.

Two fields are ours: ``choices``, strings that the reply is constrained to, and
``prior``, log-weights that multiply the policy's own probabilities of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.learning import Sampled
from sia_runtime.worker.chat_requests import heeded
from sia_runtime.worker.completions import MODEL, Message, Refused, completion, tool_call
from sia_runtime.worker.tool_choice import arguments, bare_call, chosen, instruction, schema_of

DEFAULT_TOKENS = 256
"""The longest reply of an engine of the run's own, where a request names none: what it samples has to end somewhere."""

MAX_TOKENS = 1_000_000
"""No policy's context is longer; how long this one's is, the gateway knows."""

_TOOL_CALL = re.compile(r"<tool_call>\s*+(\{(?:(?!<tool_call>).)*?\})\s*+</tool_call>", re.DOTALL)
"""It goes on to the next opening tag at most, so that a text of nothing but such tags takes no more than its length."""

_CANONICAL = json.JSONEncoder(sort_keys=True)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Function(_Strict):
    name: str
    arguments: str


class _ToolCall(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(_Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_ToolCall] | None = None


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
    include_obfuscation: bool | None = None


class _Body(_Strict):
    """A request's fields that are heeded; :func:`sia_runtime.worker.chat_requests.heeded` leaves out the others."""

    messages: list[_Message] = Field(min_length=1)
    model: str = MODEL
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1, le=64)
    logprobs: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    response_format: _Format | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    choices: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1, max_length=4096)
    prior: list[float] | None = None


@dataclass(frozen=True)
class Chat:
    """A checked request.

    A reply has to call one of the tools ``forced``, where there are any. Where ``may_shrink``, its
    length is this module's choice and not the request's. ``digests`` name the
    conversation up to and with each message, tools included; ``digest`` names the whole
    request as far as it bears on what is sampled.
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
    top_p: float = 1.0
    forced: tuple[str, ...] = ()
    parallel: bool = True
    may_shrink: bool = False

    def after(self, reply: Message) -> bytes:
        """The name of the conversation with the reply."""
        return _chained(self.digests[-1], reply)

    @property
    def constraint(self) -> Mapping[str, Any] | None:
        """The schema of a reply, where not every text is one: with tools, a call of one may stand for the answer."""
        if self.forced or (self.tools and self.schema is not None):
            return schema_of(self.tools, self.forced, self.schema)
        return self.schema

    def instructed(self) -> Chat:
        """The same, with words at its end that ask for a call of the tools ``forced``."""
        *before, last = self.messages
        if last["role"] in ("user", "tool"):
            messages = [*before, {**last, "content": f"{last['content']}\n\n{instruction(self.forced)}"}]
        else:
            messages = [*self.messages, {"role": "user", "content": instruction(self.forced)}]
        return replace(self, messages=messages, digests=[*self.digests[:-1], _chained(self.digests[-1], messages[-1])])


def parse(request: Mapping[str, Any]) -> Chat:
    """Check a request; Refused, with the field's name, where it is not one."""
    try:
        body = _Body.model_validate(heeded(request))
    except ValidationError as error:
        raise _refusal(error) from None
    messages = [_normal(message) for message in body.messages]
    offered, forced = chosen(body.tool_choice, [tool.model_dump(exclude_none=True) for tool in body.tools or ()])
    digests = [_chained(b"", offered)]
    for message in messages:
        digests.append(_chained(digests[-1], message))
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    _check_stop(stop)
    _check_prior(body)
    if body.choices and forced:
        raise Refused("tool_choice: cannot be had together with choices", "tool_choice")
    named = body.max_completion_tokens or body.max_tokens
    settings: dict[str, Any] = {
        "max_tokens": named or DEFAULT_TOKENS,
        "temperature": body.temperature,
        "stop": tuple(stop),
        "choices": tuple(body.choices or ()),
        "prior": tuple(body.prior or ()),
        "schema": _schema(body.response_format),
    }
    # A digest decides what is sampled: it names these only where they say something.
    more: dict[str, Any] = {"top_p": body.top_p} if body.top_p < 1 else {}
    more |= {"forced": forced} if forced else {}
    digest = _chained(digests[-1], settings | more)
    return Chat(
        messages,
        offered,
        body.n or 1,
        bool(body.logprobs),
        **settings,
        **more,
        digests=digests[1:],
        digest=digest,
        parallel=body.parallel_tool_calls,
        may_shrink=named is None,
    )


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


def _schema(form: _Format | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        raise Refused("response_format.json_schema: is missing", "response_format.json_schema")
    return form.json_schema.schema_


def _normal(message: _Message) -> Message:
    """A message as tokenizers render it: content is text, the arguments of a tool call are JSON values."""
    normal: Message = {"role": message.role, "content": message.content}
    if message.name is not None:
        normal["name"] = message.name
    if message.tool_call_id is not None:
        normal["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        normal["tool_calls"] = [
            _tool_call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls
        ]
    return normal


def _tool_call(name: str, function: str, value: Any) -> Message:
    """A call; arguments that a policy wrote as JSON in a string are what that says."""
    return tool_call(name, function, arguments(value) if isinstance(value, str) else value)


def _chained(before: bytes, value: Any) -> bytes:
    return hashlib.sha256(before + _CANONICAL.encode(value).encode()).digest()


def _refusal(error: ValidationError) -> Refused:
    first = error.errors(include_url=False, include_input=False)[0]
    # A union's location names its members too, which are no fields.
    place = [str(each) for each in first["loc"] if not isinstance(each, str) or each.isidentifier()]
    param = ".".join(each for each in place if each != "str")
    if first["type"] == "extra_forbidden":
        return Refused(f"{param}: this field is not known here; leave it out", param, "unknown_parameter")
    return Refused(f"{param}: {first['msg']}", param)


def said(chat: Chat, text: str, name: str) -> Message:
    """The assistant's message that a sampled text is, in the form that :func:`parse` gives messages.

    Where the request has tools, a JSON object ``{"name", "arguments"}`` between
    ``<tool_call>`` and ``</tool_call>`` is a tool call, and so is a whole text that
    :attr:`Chat.constraint` made one; ``name`` begins the ids of calls.
    """
    calls: list[Message] = []

    def take(match: re.Match[str]) -> str:
        call = arguments(match[1])
        if not (isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call):
            return match[0]
        calls.append(_tool_call(f"call_{name}_{len(calls)}", call["name"], call["arguments"]))
        return ""

    rest = _TOOL_CALL.sub(take, text) if chat.tools else text
    if (chat.forced or chat.schema is not None) and not calls:
        offered = chat.forced or [each["function"]["name"] for each in chat.tools]
        if bare := bare_call(text, offered):
            calls, rest = [_tool_call(f"call_{name}_0", *bare)], ""
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": rest.strip(), "tool_calls": calls if chat.parallel else calls[:1]}


def keeps(chat: Chat, message: Message) -> bool:
    """Whether a reply calls one of the tools that it has to call, and no other."""
    called = {call["function"]["name"] for call in message.get("tool_calls", ())}
    return not chat.forced or (bool(called) and called <= set(chat.forced))


def no_call(chat: Chat) -> Refused:
    """The refusal of a request whose reply calls no tool, though it has to."""
    why = f"the policy did not answer with a call of {' or '.join(chat.forced)}; ask again, or offer it by `auto`"
    return Refused(f"tool_choice: {why}", "tool_choice", "tool_use_failed")


def reply(
    chat: Chat,
    name: str,
    continuations: Sequence[tuple[Message, Sampled]],
    prompt_tokens: int,
    decode: Callable[[Sequence[int]], str],
) -> dict[str, Any]:
    """A completion. ``continuations`` are what :func:`said` made of each sample, and the sample."""
    return completion(
        name,
        [
            (
                message,
                "tool_calls" if "tool_calls" in message else sampled.finish,
                _logprobs(sampled, decode) if chat.logprobs else None,
            )
            for message, sampled in continuations
        ],
        (prompt_tokens, sum(len(sampled.tokens) for _, sampled in continuations)),
    )


def _logprobs(sampled: Sampled, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    texts = [decode([token]) for token in sampled.tokens]
    content = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in zip(texts, sampled.logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}
