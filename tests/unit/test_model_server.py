"""The stand-in for model servers: the real SDKs get what its script says, in both protocols, faults included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import anthropic
import openai
import pytest

from sia_testing.model_server import Fault, ModelServer, Turn, Use

ASK: list[Any] = [{"role": "user", "content": "hello"}]
LONG = "a text of several events " * 5


class Messages:
    """The Messages protocol through its SDK."""

    overloaded: type[Exception] = anthropic.APIStatusError
    limited: type[Exception] = anthropic.RateLimitError

    def __init__(self, server: ModelServer) -> None:
        self.client = anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)

    def limit(self, seconds: float) -> None:
        self.client.timeout = seconds

    def ask(self) -> dict[str, Any]:
        message = self.client.messages.create(model="m", max_tokens=9, messages=ASK)
        return self._told(message)

    def stream(self) -> dict[str, Any]:
        with self.client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
            return self._told(stream.get_final_message())

    def _told(self, message: Any) -> dict[str, Any]:
        return {
            "text": "".join(block.text for block in message.content if block.type == "text"),
            "uses": [(block.name, block.input) for block in message.content if block.type == "tool_use"],
            "ended": message.stop_reason,
            "output": message.usage.output_tokens,
            "cached": message.usage.cache_read_input_tokens,
        }


class ChatCompletions:
    """The Chat Completions protocol through its SDK."""

    overloaded: type[Exception] = openai.APIStatusError
    limited: type[Exception] = openai.RateLimitError

    def __init__(self, server: ModelServer) -> None:
        self.client = openai.OpenAI(base_url=server.openai_url, api_key="any", max_retries=0)

    def limit(self, seconds: float) -> None:
        self.client.timeout = seconds

    def ask(self) -> dict[str, Any]:
        return self._told(self.client.chat.completions.create(model="m", messages=ASK))

    def stream(self) -> dict[str, Any]:
        with self.client.chat.completions.stream(
            model="m", messages=ASK, stream_options={"include_usage": True}
        ) as stream:
            return self._told(stream.get_final_completion())

    def _told(self, whole: Any) -> dict[str, Any]:
        (choice,) = whole.choices
        calls = choice.message.tool_calls or []
        return {
            "text": choice.message.content or "",
            "uses": [(call.function.name, json.loads(call.function.arguments)) for call in calls],
            "ended": choice.finish_reason,
            "output": whole.usage.completion_tokens,
            "cached": whole.usage.prompt_tokens_details.cached_tokens,
        }


@pytest.fixture(params=[Messages, ChatCompletions])
def protocol(request: pytest.FixtureRequest) -> Iterator[Any]:
    """``protocol(server)`` is a client of it, closed at the end."""
    opened: list[Any] = []

    def connect(server: ModelServer) -> Any:
        opened.append(request.param(server))
        return opened[-1]

    yield connect
    for each in opened:
        each.client.close()


@pytest.mark.real
@pytest.mark.parametrize("how", ["ask", "stream"])
def test_texts_and_tools_and_usage_arrive_as_scripted(protocol: Any, how: str) -> None:
    use = Use("read", {"path": "harness.py", "note": "a “quote” and\nmore than one event of arguments"})
    usage = {"output": 77, "cache_read": 5}
    with ModelServer([Turn(LONG, [use, use], usage=usage)]) as server:
        reply = getattr(protocol(server), how)()
    assert reply["text"] == LONG
    assert reply["uses"] == [("read", use.arguments)] * 2
    assert (reply["output"], reply["cached"]) == (77, 5)
    assert reply["ended"] in ("tool_use", "tool_calls")


@pytest.mark.real
@pytest.mark.parametrize(
    ("ended", "names"), [("end", {"end_turn", "stop"}), ("refusal", {"refusal", "content_filter"})]
)
def test_a_reply_ends_as_scripted(protocol: Any, ended: Any, names: set[str]) -> None:
    with ModelServer([Turn("so", ended=ended)]) as server:
        assert protocol(server).ask()["ended"] in names


@pytest.mark.real
def test_what_was_asked_can_be_looked_at(protocol: Any) -> None:
    with ModelServer(lambda request: Turn(f"number {request.number}")) as server:
        client = protocol(server)
        assert [client.ask()["text"], client.ask()["text"]] == ["number 0", "number 1"]
        assert [request.body["messages"] for request in server.asked] == [ASK, ASK]
        assert server.asked[0].headers["authorization"] == "Bearer any"


@pytest.mark.real
def test_statuses_come_with_their_retry_after(protocol: Any) -> None:
    script = [Turn(fault=Fault(429, retry_after=7)), Turn(fault=Fault(529)), Turn(fault=Fault(500))]
    with ModelServer(script) as server:
        client = protocol(server)
        with pytest.raises(client.limited) as limited:
            client.ask()
        assert limited.value.response.headers["retry-after"] == "7"  # type: ignore[attr-defined]
        for status in (529, 500):
            with pytest.raises(client.overloaded) as error:
                client.ask()
            assert error.value.status_code == status  # type: ignore[attr-defined]


@pytest.mark.real
@pytest.mark.parametrize("how", ["ask", "stream"])
def test_a_connection_that_is_cut_is_an_error_of_the_client(protocol: Any, how: str) -> None:
    with ModelServer([Turn(LONG, fault=Fault(cut_after=3))]) as server, pytest.raises(Exception, match=r"."):
        getattr(protocol(server), how)()


@pytest.mark.real
def test_slow_bytes_run_into_the_clients_time_limit(protocol: Any) -> None:
    with ModelServer([Turn(LONG, fault=Fault(pause=60))]) as server:
        client = protocol(server)
        client.limit(0.05)
        with pytest.raises(Exception, match=r"[Tt]imed out"):
            client.ask()


@pytest.mark.real
def test_a_script_that_is_used_up_is_an_error_that_no_client_retries(protocol: Any) -> None:
    with ModelServer([]) as server, pytest.raises(Exception, match="400"):
        protocol(server).ask()


BODY = b'{"messages": []}'
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({**JSON, "host": "rebound.example:80"}, BODY, 421),
        ({"content-type": "text/plain"}, BODY, 415),
        ({**JSON, "content-length": "-1"}, BODY, 411),
        ({**JSON, "content-length": str(2**40)}, BODY, 413),
        (JSON, b"[" * 100_000, 400),
        (JSON, b'{"messages": [7]}', 400),
        (JSON, b"\xff", 400),
    ],
)
def test_what_a_page_in_a_browser_may_send_and_what_is_no_conversation_is_refused(
    headers: dict[str, str], body: bytes, status: int
) -> None:
    with ModelServer([Turn("no")]) as server:
        address = server.url.removeprefix("http://")
        connection = HTTPConnection(address, timeout=10)
        with closing(connection):
            connection.request("POST", "/v1/chat/completions", body, headers)
            assert connection.getresponse().status == status
    assert server.asked == []
