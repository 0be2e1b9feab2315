"""Any model behind one method, through litellm: requests as chat completions, streams put together, errors sorted."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from sia_core.errors import UsageError
from sia_core.evidence import excerpt
from sia_core.models import REFUSED, Ask, CallFailed, Ended, Message, Prices, Reply, ToolCall, Usage

_ENDED: Mapping[str, Ended] = {"tool_calls": "tools", "length": "length", "content_filter": "refusal"}

_UNSENT = {"ConnectError", "ConnectTimeout"}


class Completions:
    """Chat completions of the model that a request names; at ``base_url``, if that is not empty."""

    name = "litellm"

    def __init__(self, base_url: str, timeout: float, prices: Prices | None) -> None:
        self._base_url, self._timeout, self._prices = base_url, timeout, prices

    def check(self, model: str, asked: str) -> None:
        """UsageError, about what the user ``asked`` for, where the model has no provider or no key."""
        try:
            self._library.get_llm_provider(model=model, api_base=self._base_url or None)
        except Exception:
            raise UsageError(
                f"{asked}: litellm does not know whose model that is; write PROVIDER/MODEL, such as openai/gpt-4o, "
                "ollama/llama3, or openai/NAME with a base_url of yours"
            ) from None
        if (missing := self._missing(model)) and not self._base_url:
            raise UsageError(
                f"{asked} needs a key: set the environment variable {' or '.join(missing)}. "
                "Without a key there are models on a server of yours (base_url=...), and `--improver playbook`, "
                "which asks no model."
            )

    def prices(self, model: str) -> Prices | None:
        """The user's, or litellm's table's; of a server of one's own they are not known."""
        if self._prices is not None or self._base_url:
            return self._prices
        try:
            info = self._library.get_model_info(model)
        except Exception:  # litellm raises a bare one where it does not know the model
            return None
        given, said = info.get("input_cost_per_token"), info.get("output_cost_per_token")
        if given is None or said is None:
            return None
        read, write = info.get("cache_read_input_token_cost"), info.get("cache_creation_input_token_cost")
        each = (given, said, given if read is None else read, given if write is None else write)
        return Prices(*(round(price * 1e6, 6) for price in each))

    def complete(self, request: Ask) -> Reply:
        """The whole reply; it is streamed, since a long one would outlast any time limit."""
        with self._sorted(request.model):
            stream = self._library.completion(
                **_body(request),
                **({"api_base": self._base_url} if self._base_url else {}),
                **self._key(request.model),
                stream=True,
                stream_options={"include_usage": True},
                timeout=self._timeout,
                max_retries=0,
                num_retries=0,
                _skip_mcp_handler=True,  # litellm 1.106 imports it for any tool, and it wants a package of its own
            )
            try:
                return _put_together(stream)
            finally:
                _close(stream)

    @cached_property
    def _library(self) -> Any:
        """Imported on first use: it takes seconds, and must not look for prices on the network."""
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        library: Any = importlib.import_module("litellm")
        library.suppress_debug_info = True
        return library

    def _missing(self, model: str) -> list[str]:
        found = self._library.validate_environment(model=model)["missing_keys"]
        return [name for name in found if not name.endswith("_API_BASE")]

    def _key(self, model: str) -> dict[str, str]:
        """A server of one's own often wants none, and its client always some."""
        return {"api_key": "none"} if self._base_url and self._missing(model) else {}

    @contextmanager
    def _sorted(self, model: str) -> Iterator[None]:
        """Errors of litellm, which are many, as failed calls, without a key in them."""
        try:
            yield
        except CallFailed:
            raise
        except Exception as error:
            names = {type(each).__name__ for each in _chain(error)}
            status = getattr(error, "status_code", None) or 0
            told = _clean(excerpt(f"{type(error).__name__}: {error}".partition("\n")[0]))  # an invitation follows
            if "MidStreamFallbackError" in names:
                raise CallFailed(told, retry=True, paid=True) from None
            if "APIConnectionError" in names or "Timeout" in names:
                raise CallFailed(told, retry=True, paid=not names & _UNSENT) from None
            retry = status in (408, 409, 429) or status >= 500
            why, refused = f"status {status}: {told}", status in REFUSED
            raise CallFailed(why, retry=retry, after=_after(error), refused=refused) from None


def _body(request: Ask) -> dict[str, Any]:
    system = [{"role": "system", "content": "\n\n".join(request.system)}] if request.system else []
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [*system, *(each for message in request.messages for each in _messages(message))],
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)},
            }
            for tool in request.tools
        ]
    return body if request.temperature is None else {**body, "temperature": request.temperature}


def _messages(message: Message) -> list[dict[str, Any]]:
    if message["role"] == "user":
        return [{"role": "user", "content": message["text"]}]
    if message["role"] == "tools":
        return [{"role": "tool", "tool_call_id": each["id"], "content": each["text"]} for each in message["results"]]
    calls = [
        {
            "id": call["id"],
            "type": "function",
            # What was malformed is not handed back: some servers refuse a conversation that holds it.
            "function": {
                "name": call["name"],
                "arguments": json.dumps(call["arguments"] if isinstance(call["arguments"], dict) else {}),
            },
        }
        for call in message["calls"]
    ]
    said = {"role": "assistant", "content": message["text"] or None}
    return [{**said, "tool_calls": calls} if calls else said]


def _close(stream: Any) -> None:
    """Now, and not when it is collected: that may be amid another call, which then waits for its own lock for ever.

    httpcore's pool closes what it collects under a lock that the thread may hold already.
    """
    with suppress(Exception):  # the reply is there, or its fault is on the way
        stream.completion_stream.close()


def _put_together(stream: Iterable[Any]) -> Reply:
    """The reply of a stream; CallFailed where it ends before its end."""
    text, ended = "", None
    calls: dict[int, dict[str, str]] = {}
    usage = Usage()
    for chunk in stream:
        if given := getattr(chunk, "usage", None):
            usage = _usage(given)
        for choice in chunk.choices:
            ended = choice.finish_reason or ended
            text += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = call["id"] or part.id or ""
                call["name"] = call["name"] or part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    if ended is None:
        raise CallFailed("the stream ended before the reply did", retry=True, paid=True)
    named = [
        ToolCall(call["id"] or f"call_{place}", call["name"], _arguments(call["arguments"]))
        for place, call in sorted(calls.items())
    ]
    return Reply(text, tuple(named), _ENDED.get(ended, "end"), usage)


def _usage(given: Any) -> Usage:
    details = getattr(given, "prompt_tokens_details", None)
    read = getattr(details, "cached_tokens", None) or 0
    write = getattr(given, "cache_creation_input_tokens", None) or 0
    return Usage((given.prompt_tokens or 0) - read - write, given.completion_tokens or 0, read, write)


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    after = str(headers.get("retry-after", ""))
    return float(after) if after.replace(".", "", 1).isdigit() else None


def _clean(text: str) -> str:
    """Without the value of any variable that may hold a key."""
    for name, value in os.environ.items():
        if len(value) >= 8 and any(part in name.upper() for part in ("KEY", "TOKEN", "SECRET", "PASSWORD")):
            text = text.replace(value, "[key]")
    return text
