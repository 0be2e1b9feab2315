"""Claude behind one method: requests as the Messages API wants them, its stream put together, its errors sorted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sia_core.errors import excerpt
from sia_llm import Settings
from sia_llm.models import (
    REFUSED,
    Ask,
    CallFailed,
    Ended,
    Message,
    Prices,
    Reply,
    ToolCall,
    Usage,
    asked_wait,
    without_key,
)

if TYPE_CHECKING:
    from anthropic import Anthropic

PRICES = (
    ("claude-opus-4-1", Prices(15.0, 75.0, 1.5, 18.75)),
    ("claude-opus-4-", Prices(5.0, 25.0, 0.5, 6.25)),
    ("claude-sonnet-4-", Prices(3.0, 15.0, 0.3, 3.75)),
    ("claude-haiku-4-", Prices(1.0, 5.0, 0.1, 1.25)),
)
"""Dollars for a million tokens, by the beginning of a model's name; a test compares them with litellm's table."""

_EPHEMERAL = {"type": "ephemeral"}

_ENDED: Mapping[str, Ended] = {
    "tool_use": "tools",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}

_GROWS = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}

_UNSENT = ("ConnectError", "ConnectTimeout", "LocalProtocolError", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
"""Errors that come before anything of a request has been sent."""


class Messages:
    """The Messages API through its SDK."""

    name = "Claude"

    def __init__(self, key: str, settings: Settings) -> None:
        self._key, self._settings = key, settings

    def prices(self, model: str) -> Prices | None:
        """The user's, or the table's."""
        matches = (price for begins, price in PRICES if model.startswith(begins))
        return self._settings.prices or next(matches, None)

    def complete(self, request: Ask) -> Reply:
        """The whole reply; it is streamed, since a long one would outlast any time limit.

        A client a call: minutes of rollouts lie between most calls, and no connection is left open over them.
        """
        with (
            self._sorted(),
            self._client() as client,
            client.messages.create(**_body(request), stream=True) as stream,
            _reading(),
        ):
            if "json" in stream.response.headers.get("content-type", ""):  # from a server that does not stream
                return _whole(json.loads(stream.response.read()))
            return _put_together(event.model_dump(mode="json") for event in stream)

    def _client(self) -> Anthropic:
        from anthropic import Anthropic, DefaultHttpxClient

        url, seconds = self._settings.base_url or None, self._settings.timeout
        client = DefaultHttpxClient(follow_redirects=False)  # the key's header would go wherever a reply points
        return Anthropic(api_key=self._key, base_url=url, max_retries=0, timeout=seconds, http_client=client)

    @contextmanager
    def _sorted(self) -> Iterator[None]:
        """Errors of the SDK as failed calls, without the key in them."""
        import anthropic
        import httpx2

        try:
            yield
        except CallFailed as failure:
            failure.args = (self._clean(str(failure)),)
            raise
        except anthropic.APIStatusError as error:
            raise self._status(error) from None
        except (anthropic.APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ or error
            sent = type(cause).__name__ not in _UNSENT
            raise CallFailed(self._clean(f"{error} ({cause})"), retry=True, paid=sent) from None
        except (anthropic.AnthropicError, UnicodeError, httpx2.InvalidURL) as error:  # before anything was sent
            raise CallFailed(self._clean(str(error)), retry=False) from None

    def _status(self, error: Any) -> CallFailed:
        status, begun = error.status_code, error.status_code < 400  # an error in the middle of a stream comes with 200
        message = error.api_message or error.message
        return CallFailed(
            self._clean(f"status {status}: {message}"),
            retry=begun or status in (408, 409, 429) or status >= 500,
            after=asked_wait(error.response.headers),
            paid=begun,
            refused=status in REFUSED,
        )

    def _clean(self, text: str) -> str:
        return without_key(text, self._key) if self._key else text


def _body(request: Ask) -> dict[str, Any]:
    """The request. This API takes four marks for its cache, and caches all that stands up to each of them.

    They stand at the ends of what changes at different times: the system prompt, which a run's conversations share;
    the first message, which a conversation keeps; what was folded, until more is; and the end.
    """
    messages = [_message(each) for each in request.messages]
    folded = [place for place, each in enumerate(request.messages) if each.get("folded")]
    for place in {0, *folded[-1:], len(messages) - 1}:
        messages[place]["content"][-1]["cache_control"] = _EPHEMERAL
    system = [{"type": "text", "text": part} for part in request.system]
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.most_output,  # this API wants a limit
        "system": [*system[:-1], *({**part, "cache_control": _EPHEMERAL} for part in system[-1:])],
        "messages": messages,
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.schema)}
            for tool in request.tools
        ],
    }
    return body if request.temperature is None else {**body, "temperature": request.temperature}


def _message(message: Message) -> dict[str, Any]:
    if message["role"] == "user":
        return {"role": "user", "content": [{"type": "text", "text": message["text"]}]}
    if message["role"] == "assistant":
        inputs = {call["id"]: call["arguments"] for call in message["calls"]}
        return {"role": "assistant", "content": [_handed_back(block, inputs) for block in message["raw"]]}
    results = [
        {
            "type": "tool_result",
            "tool_use_id": each["id"],
            "content": [{"type": "text", "text": each["text"]}],
            "is_error": each["failed"],
        }
        for each in message["results"]
    ]
    return {"role": "user", "content": results}


def _handed_back(block: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A block of a reply. The input of a call must be an object, whatever the model wrote."""
    if block["type"] != "tool_use":
        return dict(block)
    arguments = inputs.get(block["id"])
    return {**block, "input": arguments if isinstance(arguments, dict) else {}}


@contextmanager
def _reading() -> Iterator[None]:
    """Anything but a whole reply is a failed call."""
    import anthropic
    import httpx2

    try:
        yield
    except (CallFailed, anthropic.AnthropicError, httpx2.HTTPError):
        raise
    except Exception as error:
        why = f"the server sent what is no reply: {type(error).__name__}: {error}"
        raise CallFailed(why, retry=True, paid=True) from None


def _put_together(events: Iterable[Mapping[str, Any]]) -> Reply:
    """The reply of a stream; CallFailed where it ends before its end."""
    blocks: list[dict[str, Any]] = []
    growing: dict[int, dict[str, Any]] = {}
    usage: dict[str, int] = {}
    ended = ""
    for event in events:
        match event["type"]:
            case "message_start":
                usage.update(_counted(event["message"]["usage"]))
            case "content_block_start":
                blocks.append(dict(event["content_block"]))
                growing[event["index"]] = blocks[-1]
            case "content_block_delta":
                _grow(growing[event["index"]], event["delta"])
            case "message_delta":
                usage.update(_counted(event["usage"]))
                ended = event["delta"]["stop_reason"] or ended
            case "message_stop" if ended:
                return _reply(blocks, ended, usage)
    raise CallFailed("the stream ended before the reply did", retry=True, paid=True)


def _whole(body: Any) -> Reply:
    """The reply of a server that does not stream; CallFailed where it sent none."""
    if not isinstance(body, Mapping) or body.get("type") != "message":
        error = body.get("error") or body if isinstance(body, Mapping) else body
        raise CallFailed(
            f"the server sent no message: {excerpt(str(error), 500)}",
            retry=True,
            paid=not isinstance(body, Mapping) or "error" not in body,
        )
    return _reply(
        [dict(block) for block in body["content"]], body.get("stop_reason") or "", _counted(body.get("usage"))
    )


def _counted(usage: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: max(0, count) for name, count in (usage or {}).items() if isinstance(count, int)}


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    if name := _GROWS.get(delta["type"]):
        block[name] = (block.get(name) or "") + (delta[name] or "")


def _reply(blocks: list[dict[str, Any]], ended: str, usage: Mapping[str, int]) -> Reply:
    calls = [_call(block, place) for place, block in enumerate(blocks) if block["type"] == "tool_use"]
    return Reply(
        text="".join(block["text"] or "" for block in blocks if block["type"] == "text"),
        calls=tuple(calls),
        ended=_ENDED.get(ended, "end"),
        usage=Usage(
            usage.get("input_tokens", 0),
            usage.get("output_tokens", 0),
            usage.get("cache_read_input_tokens", 0),
            usage.get("cache_creation_input_tokens", 0),
        ),
        raw=[_kept(block) for block in blocks if block["type"] != "text" or block["text"]],
    )


def _call(block: dict[str, Any], place: int) -> ToolCall:
    """The call of a tool, whose arguments the block then leaves to it."""
    block["id"] = block.get("id") or f"toolu_{place}"
    whole = block.pop("input", None)
    return ToolCall.written(block["id"], block.get("name") or "", block.pop("partial_json", "") or whole or "")


def _kept(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block as the API takes it back: without the fields that hold nothing."""
    return {name: value for name, value in block.items() if value is not None}
