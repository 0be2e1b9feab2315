"""Any model behind one method, through litellm: requests as chat completions, errors sorted."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from sia_core.errors import UsageError, excerpt
from sia_litellm.replies import reply, response_of
from sia_llm.models import REFUSED, Ask, CallFailed, Message, Prices, Reply, asked_wait, without_key

_UNSENT = {
    "ConnectError",
    "ConnectTimeout",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnicodeEncodeError",
    "UnsupportedProtocol",
}
"""Errors that come before anything of a request has been sent."""

_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?:: | - | ))+")

_ADVICE = re.compile(r"litellm\.[A-Za-z_]|drop_params|allowed_openai_params|custom_llm_provider|docs\.litellm\.ai")

_LOG = logging.getLogger(__name__)


class Completions:
    """Chat completions of the model that a request names; at ``base_url``, if that is not empty."""

    name = "litellm"

    def __init__(self, base_url: str, timeout: float, prices: Prices | None) -> None:
        self._base_url, self._timeout, self._prices = base_url, timeout, prices
        self._mutex = threading.Lock()
        self._noted: set[str] = set()

    def check(self, model: str, option: str) -> None:
        """UsageError, which opens with the user's ``option``, where the model has no provider or no key."""
        try:
            library = self._library
        except ModuleNotFoundError as error:
            raise UsageError(f"{option} needs litellm ({error}): pip install sia-litellm") from None
        try:
            library.get_llm_provider(model=model, api_base=self._base_url or None)
        except Exception:
            raise UsageError(
                f"{option}: litellm does not know whose model that is; write PROVIDER/MODEL, such as openai/gpt-4o, "
                "ollama/llama3, or openai/NAME with a base_url of yours"
            ) from None
        if (missing := self._missing(model)) and not self._base_url:
            raise UsageError(
                f"{option} needs a key: set the environment variable {' or '.join(missing)}. "
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
        input_price, output_price = info.get("input_cost_per_token"), info.get("output_cost_per_token")
        if input_price is None or output_price is None:
            return None
        read_price, write_price = info.get("cache_read_input_token_cost"), info.get("cache_creation_input_token_cost")
        each = (
            input_price,
            output_price,
            input_price if read_price is None else read_price,
            input_price if write_price is None else write_price,
        )
        return Prices(*(round(price * 1e6, 6) for price in each))

    def complete(self, request: Ask) -> Reply:
        """The whole reply; it is streamed, since a long one would outlast any time limit."""
        with self._sorted(request.model):
            stream = self._opened(request)
        response = response_of(stream.completion_stream)
        try:
            with self._sorted(request.model, begun=True):
                return reply(stream, request.n)
        finally:
            _close(stream, response)

    def _opened(self, request: Ask) -> Any:
        """A stream of litellm's, without the settings that the model does not take; without tools there is none."""
        try:
            return self._asked(request)
        except self._library.UnsupportedParamsError as error:
            why = _plain(str(error))
            if request.tools and "tool" in why:
                raise CallFailed(f"{why} Choose a model that takes tools.", retry=False, refused=True) from None
        with self._mutex:
            if request.model not in self._noted:
                self._noted.add(request.model)
                _LOG.warning("%s Such settings are left out.", why)
        return self._asked(request, drop_params=True)

    def _asked(self, request: Ask, **more: Any) -> Any:
        return self._library.completion(
            **_body(request, self._marks(request)),
            **({"api_base": self._base_url} if self._base_url else {}),
            **self._key(request.model),
            stream=True,
            stream_options={"include_usage": True},
            timeout=self._timeout,
            max_retries=0,
            num_retries=0,
            _skip_mcp_handler=True,  # litellm 1.106 imports it for any tool, and it needs another package
            **more,
        )

    def _marks(self, request: Ask) -> tuple[int, ...]:
        """The messages up to which a cache is asked for; none where a provider caches by itself, or not at all.

        Claude's are such models. A request without tools is a single question, and nothing comes back to it.
        """
        marked = "claude" in request.model and self._library.utils.supports_prompt_caching(request.model)
        if not (marked and request.tools):
            return ()
        folded = [place for place, each in enumerate(request.messages) if each.get("folded")]
        return (0, *folded[-1:], len(request.messages) - 1)

    @cached_property
    def _library(self) -> Any:
        """Imported on first use: it takes seconds. It must not look for prices on the network, nor for a file ``.env``.

        Such a file, in a folder above the library, could say where a key is sent.
        """
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        library: Any = importlib.import_module("litellm")
        library.suppress_debug_info = True
        return library

    def _missing(self, model: str) -> list[str]:
        names = self._library.validate_environment(model=model)["missing_keys"]
        return [name for name in names if not name.endswith("_API_BASE")]

    def _key(self, model: str) -> dict[str, str]:
        """A server of one's own often wants none, and its client always some."""
        return {"api_key": "none"} if self._base_url and self._missing(model) else {}

    @contextmanager
    def _sorted(self, model: str, *, begun: bool = False) -> Iterator[None]:
        """Errors of litellm, which are many, as failed calls, without a key in them.

        One of no known kind is a fault of the request before the reply has ``begun``, and of the reply after it.
        """
        try:
            yield
        except CallFailed as failure:
            failure.args = (_clean(str(failure)),)
            raise
        except Exception as error:
            names = {type(each).__name__ for each in _chain(error)}
            status = getattr(error, "status_code", None) or 0
            message = _clean(excerpt(_plain(str(error)) or type(error).__name__))
            if "MidStreamFallbackError" in names:
                raise CallFailed(message, retry=True, paid=True) from None
            if "APIConnectionError" in names or "Timeout" in names:
                raise CallFailed(message, retry=True, paid=not names & _UNSENT) from None
            if not status:
                raise CallFailed(message, retry=begun, paid=begun) from None
            retry = status in (408, 409, 429) or status >= 500
            why, refused = f"status {status}: {message}", status in REFUSED
            raise CallFailed(why, retry=retry, after=asked_wait(_headers(error)), refused=refused) from None


def _body(request: Ask, marks: Sequence[int] = ()) -> dict[str, Any]:
    """The request; the system prompt and the messages of ``marks`` are marked for a cache at their ends."""
    system = [{"role": "system", "content": "\n\n".join(request.system)}] if request.system else []
    parts = [_messages(message) for message in request.messages]
    for marked in (system, *(parts[place] for place in set(marks))) if marks else ():
        _mark(marked[-1])
    body: dict[str, Any] = {"model": request.model, "messages": [*system, *(each for part in parts for each in part)]}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)},
            }
            for tool in request.tools
        ]
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p < 1:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    if request.n > 1:
        body["n"] = request.n
    return {**body, "logprobs": True} if request.logprobs else body


def _mark(message: dict[str, Any]) -> None:
    """Mark a message, in the form that litellm takes of its role."""
    mark = {"type": "ephemeral"}
    if message["role"] == "tool":
        message["cache_control"] = mark
    else:
        message["content"] = [{"type": "text", "text": message["content"], "cache_control": mark}]


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
    turn = {"role": "assistant", "content": message["text"] or None}
    return [{**turn, "tool_calls": calls} if calls else turn]


def _close(stream: Any, response: Any) -> None:
    """Now, and not when it is collected: that may be amid another call, which then waits for its own lock for ever.

    httpcore's pool closes what it collects under a lock that the thread may hold already.
    """
    opened = stream.completion_stream
    parts: tuple[Any, ...] = (opened, getattr(opened, "streaming_response", None), response)
    for each in parts:
        with suppress(Exception):  # the reply is there, or its fault is on the way
            each.close()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _headers(error: Exception) -> Mapping[str, str]:
    """Of the server's answer, wherever in the chain of errors it was kept."""
    for each in _chain(error):
        headers = getattr(each, "litellm_response_headers", None) or getattr(_response(each), "headers", None)
        if headers:
            return {str(name).lower().removeprefix("llm_provider-"): str(value) for name, value in headers.items()}
    return {}


def _response(error: BaseException) -> Any:
    return getattr(error, "response", None)


def _plain(text: str) -> str:
    """An error as its provider said it: without litellm's names for it, and without advice for programmers."""
    first = _PREFIX.sub("", text.partition("\n")[0])  # an invitation follows
    sentences = re.split(r"(?<=[.!?])\s+", first)
    return " ".join(each for each in sentences if not _ADVICE.search(each))


def _clean(text: str) -> str:
    """Without the value of any variable that may hold a key."""
    for name, value in os.environ.items():
        if len(value) >= 8 and any(part in name.upper() for part in ("KEY", "TOKEN", "SECRET", "PASSWORD")):
            text = without_key(text, value)
    return text
