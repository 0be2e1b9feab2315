"""The reply that a server of chat completions sent: its stream put together, or a whole completion; or why it is none.

litellm's own reading makes up an end where a stream has none, and drops what it cannot
read, so the bytes are read here wherever litellm hands them on.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, TypeVar

import httpx

from sia_core.errors import excerpt
from sia_llm.models import REFUSED, CallFailed, Ended, Logprob, Reply, ToolCall, Usage
from sia_llm.server_replies import MOST_BYTES, is_logprob, parsed

MOST_LOGPROBS = 2**18
"""Log-probabilities of one reply, each of which takes ten times the memory of its text."""

MOST_CALLS = 256
"""Calls of tools in one reply, and times that the arguments of one are read to see if they are whole."""

MOST_NAME = 1000
"""Characters of a tool's name, which parts of a reply add to."""

_ENDED: Mapping[str, Ended] = {
    "tool_calls": "tools",
    "function_call": "tools",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
    "sensitive": "refusal",
}

_BROKEN = frozenset(
    {
        "abort",
        "aborted",
        "canceled",
        "cancelled",
        "error",
        "failed",
        "insufficient_system_resource",  # DeepSeek's
        "network_error",  # Zhipu's
        "timeout",
    }
)
"""Ends of a reply that is none."""

_STATUS = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "not_found_error": 404,
    "permission_error": 403,
}
"""Statuses by the type or code of an error that gives no number."""

_IS_STATUS = re.compile(r"[1-5][0-9]{2}")

_HANDLERS = ("OpenAIChatCompletionStreamingHandler", "OpenRouterChatCompletionStreamingHandler")
"""litellm's readers of chat completions whose lines can be had."""

_FIELDS = ("data:", "event:", "id:", "retry:", ":")
"""How a line of a stream begins."""

_Part = TypeVar("_Part")


def reply(stream: Any, n: int = 1) -> Reply:
    """The reply of what litellm opened, with up to ``n`` - 1 others; CallFailed where it is not there, or not whole."""
    opened = stream.completion_stream
    response = response_of(opened)
    if response is not None:
        return _put_together(_documents(_lines(response)), n)
    if _is_handler(opened):
        return _put_together(_documents(_bounded(iter(opened.streaming_response), len)), n)
    chunks = _bounded(iter(stream), lambda chunk: len(chunk.model_dump_json(warnings=False)))
    whole = _put_together((chunk.model_dump(warnings=False) for chunk in chunks), n)
    if stream.received_finish_reason is None:
        raise _cut()
    return whole


def response_of(opened: Any) -> httpx.Response | None:
    """The HTTP response behind what litellm opened; None where its bytes cannot be had."""
    response = getattr(opened, "response", None)  # the OpenAI SDK's
    lines = opened.streaming_response if _is_handler(opened) else None
    if inspect.isgenerator(lines) and inspect.getgeneratorstate(lines) == inspect.GEN_CREATED:
        response = inspect.getgeneratorlocals(lines).get("self")  # httpx bounds no line, so its own lines are not read
    return response if isinstance(response, httpx.Response) else None


def _is_handler(opened: Any) -> bool:
    return any(kind.__name__ in _HANDLERS for kind in type(opened).__mro__)


def _lines(response: httpx.Response) -> Iterator[str]:
    line: list[bytes] = []
    try:
        for piece in _bounded(response.iter_bytes(), len):
            first, *more = piece.split(b"\n")
            line.append(first)
            for each in more:
                yield b"".join(line).decode(errors="replace")
                line = [each]
    except httpx.HTTPError as error:
        raise CallFailed(f"{type(error).__name__}: {error}", retry=True, paid=True) from None
    yield b"".join(line).decode(errors="replace")


def _bounded(parts: Iterator[_Part], size: Callable[[_Part], int]) -> Iterator[_Part]:
    """The parts of a reply; CallFailed once they have more than :data:`MOST_BYTES` together."""
    room = MOST_BYTES
    for each in parts:
        room -= size(each)
        if room < 0:
            raise CallFailed(f"the reply has more than {MOST_BYTES:,} bytes", retry=False, paid=True)
        yield each


def _documents(lines: Iterator[str]) -> Iterator[Any]:
    """The JSON that was sent: the data of each event up to ``[DONE]``, or, of a server that does not stream, all."""
    first = next((line for line in lines if line.strip()), "").lstrip("\ufeff")
    if not first.startswith(_FIELDS):
        yield _json("\n".join([first, *lines]))
        return
    name, data = "", ""
    for line in chain([first], lines, [""]):
        field, _, value = line.rstrip("\r").partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data += value
        elif not line.strip() and data:
            if data.strip() == "[DONE]":
                return
            yield {"error": _json(data)} if name == "error" else _json(data)
            name, data = "", ""


def _json(text: str) -> Any:
    try:
        return parsed(text)
    except ValueError:
        what = f"what is no completion: {excerpt(text.strip(), 200)}" if text.strip() else "nothing"
        raise CallFailed(f"the server sent {what}", retry=True, paid=True) from None


@dataclass
class _Call:
    """A call of a tool that is being put together, and the index that its parts name."""

    index: Any
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    reads: int = 0

    @property
    def arguments(self) -> str:
        """The text of its parts, which are put together when they are read: each time would take quadratic time."""
        self.parts[:] = ["".join(self.parts)]
        return self.parts[0]

    def goes_on(self, part: Mapping[str, Any], name: str) -> bool:
        """Whether a part belongs to this call: some servers give every call the index 0, or none, or no id."""
        another = bool(part.get("id")) and bool(self.id) and part["id"] != self.id
        if not (name and self.name):
            return not (another and self._whole)
        return not another and not self._whole and (name == self.name or not any(self.parts))

    @property
    def _whole(self) -> bool:
        self.reads += 1
        if self.reads > MOST_CALLS or not self.arguments:
            return False
        return isinstance(ToolCall.written("", "", self.arguments).arguments, dict)

    def add(self, part: Mapping[str, Any], name: str, arguments: Any) -> None:
        self.id = self.id or str(part.get("id") or "")
        self.name += "" if name == self.name else name  # some servers repeat it, and some cut it in two
        if len(self.name) > MOST_NAME:
            raise CallFailed(f"the name of a tool has more than {MOST_NAME:,} characters", retry=True, paid=True)
        self.parts.append(arguments if isinstance(arguments, str) else json.dumps(arguments))


@dataclass
class _PartialReply:
    """One of the replies that are being put together."""

    texts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[Logprob] | None = None
    ended: str = ""
    begun: bool = False
    refused: bool = False

    def add(self, choice: Mapping[str, Any]) -> None:
        delta, whole = choice.get("delta"), choice.get("message")
        if delta is None and "message" in choice and not isinstance(whole, Mapping):
            raise CallFailed("the server sent a completion without a message", retry=True, paid=True)
        message = delta or whole or {}
        self.begun |= isinstance(delta, Mapping) or isinstance(whole, Mapping)
        reason = choice.get("finish_reason")
        reason = reason.get("type") if isinstance(reason, Mapping) else reason  # SGLang's
        self.ended = str(reason or self.ended or ("stop" if whole else "")).lower()
        refusal = _text(message.get("refusal"))
        self.refused |= bool(refusal)
        self.texts.append(_text(message.get("content")) + refusal)
        legacy = message.get("function_call")
        _add(self.calls, [*(message.get("tool_calls") or ()), *([{"function": legacy}] if legacy else ())])
        rows = choice.get("logprobs")
        content = rows.get("content") if isinstance(rows, Mapping) else None
        if isinstance(content, list):
            self.logprobs = [] if self.logprobs is None else self.logprobs
            self.logprobs.extend(map(_logprob, content[: MOST_LOGPROBS + 1]))
            if len(self.logprobs) > MOST_LOGPROBS:
                raise CallFailed(f"the reply has more than {MOST_LOGPROBS:,} tokens", retry=False, paid=True)

    def reply(self, usage: Usage) -> Reply:
        if not self.ended:
            raise _cut()
        if not self.begun:
            raise CallFailed("the server sent a completion without a message", retry=True, paid=True)
        if self.ended in _BROKEN:
            raise CallFailed(f"the server ended its reply with {self.ended!r}", retry=True, paid=True)
        logprobs = None if self.logprobs is None else tuple(self.logprobs)
        ended = "refusal" if self.refused else _ENDED.get(self.ended, "end")
        return Reply("".join(self.texts), _named(self.calls), ended, usage, logprobs=logprobs)


def _put_together(documents: Iterable[Any], n: int) -> Reply:
    replies: dict[int, _PartialReply] = {}
    counts, output = 0, 0
    usage = Usage()
    for document in documents:
        choices = _choices(document, n, begun=any(each.texts or each.calls for each in replies.values()))
        if latest := _usage(document.get("usage") or document.get("x_groq")):
            usage = latest
            counts, output = (counts, output) if choices else (counts + 1, output + latest.output)
        for choice in choices:
            replies.setdefault(choice.get("index") or 0, _PartialReply()).add(choice)
    if 0 not in replies:
        raise _cut()
    if 1 < n == counts:
        usage = replace(usage, output=output)  # llama.cpp counts each reply by itself
    first, *others = (replies[index] for index in sorted(replies))
    return replace(first.reply(usage), others=tuple(each.reply(Usage()) for each in others))


def _choices(document: Any, n: int, *, begun: bool) -> Sequence[Mapping[str, Any]]:
    """The choices of which replies are made: those of the first ``n`` indices, each once."""
    if isinstance(document, Mapping) and (document.get("error") or document.get("object") == "error"):
        raise _refused(document.get("error") or document, begun)
    choices = document.get("choices") if isinstance(document, Mapping) else None
    if not isinstance(choices, Sequence) or not all(isinstance(each, Mapping) for each in choices):
        sample = excerpt(json.dumps(document), 200)
        raise CallFailed(f"the server sent what is no completion: {sample}", retry=True, paid=True)
    pairs = ((choice.get("index") or 0, choice) for choice in reversed(choices))
    return list({at: choice for at, choice in pairs if isinstance(at, int) and at in range(n)}.values())


def _logprob(row: Any) -> Logprob:
    """A token's log-probability; CallFailed where it is none."""
    token, logprob = (row.get("token"), row.get("logprob")) if isinstance(row, Mapping) else (None, None)
    if not isinstance(token, str) or not is_logprob(logprob):
        sample = excerpt(json.dumps(row), 200)
        raise CallFailed(f"the server sent what is no log-probability: {sample}", retry=True, paid=True)
    codes = row.get("bytes")
    whole = isinstance(codes, list) and all(isinstance(each, int) and 0 <= each < 256 for each in codes)
    return Logprob(token, float(logprob), tuple(codes if whole else token.encode(errors="replace")))


def _refused(error: Any, begun: bool) -> CallFailed:
    """An error that came where a reply was to come, as its status would have said it."""
    details = error if isinstance(error, Mapping) else {"message": error}
    codes = (str(details.get(name) or "").lower() for name in ("code", "status", "type"))
    statuses = (int(each) if _IS_STATUS.fullmatch(each) else _STATUS.get(each, 0) for each in codes)
    status = next(filter(None, statuses), 0)
    return CallFailed(
        f"the server sent an error: {excerpt(str(details.get('message') or details), 500)}",
        retry=not 400 <= status < 500 or status in (408, 409, 429),
        paid=begun,
        refused=status in REFUSED,
    )


def _text(content: Any) -> str:
    """A text, or the parts of one that some servers send. Anything else is no reply, and no empty one either."""
    parts = content if isinstance(content, list) else None
    texts = [content] if parts is None else [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(text is None or isinstance(text, str) for text in texts):
        sample = excerpt(json.dumps(content), 200)
        raise CallFailed(f"the server sent what is no text as one: {sample}", retry=True, paid=True)
    return "".join(text or "" for text in texts)


def _add(calls: list[_Call], parts: Sequence[Any]) -> None:
    """The parts of one chunk; no two of them that have a name are the same call."""
    fresh: list[_Call] = []
    for part in parts:
        if not isinstance(part, Mapping):
            sample = excerpt(json.dumps(part), 200)
            raise CallFailed(f"the server sent what is no call of a tool: {sample}", retry=True, paid=True)
        function = part.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments")
        index = part.get("index")
        call = next((each for each in reversed(calls) if each.index == index or index is None), None)
        if call is None or not call.goes_on(part, name) or (name and call in fresh):
            call = _Call(index)
            calls.append(call)
            if len(calls) > MOST_CALLS:
                raise CallFailed(f"the reply calls tools more than {MOST_CALLS} times", retry=True, paid=True)
        fresh.append(call)
        call.add(part, name, "" if arguments is None else arguments)


def _named(calls: Sequence[_Call]) -> tuple[ToolCall, ...]:
    """The calls, each with an id that no other has."""
    ids = {call.id for call in calls}
    used: set[str] = set()
    named = []
    for place, call in enumerate(calls):
        id = call.id if call.id and call.id not in used else _free(place, ids | used)
        used.add(id)
        named.append(ToolCall.written(id, call.name, call.arguments))
    return tuple(named)


def _free(place: int, ids: set[str]) -> str:
    return next(id for number in count(place) if (id := f"call_{number}") not in ids)


def _usage(usage: Any) -> Usage | None:
    if isinstance(usage, Mapping) and isinstance(usage.get("usage"), Mapping):
        usage = usage["usage"]  # Groq's
    if not isinstance(usage, Mapping) or "prompt_tokens" not in usage:
        return None
    details = usage.get("prompt_tokens_details")
    cache_read = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
    cache_write = _count(usage, "cache_creation_input_tokens")
    return Usage(
        max(0, _count(usage, "prompt_tokens") - cache_read - cache_write),
        _count(usage, "completion_tokens"),
        cache_read,
        cache_write,
    )


def _count(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    return max(0, count) if isinstance(count, int) else 0


def _cut() -> CallFailed:
    return CallFailed("the stream ended before the reply did", retry=True, paid=True)
