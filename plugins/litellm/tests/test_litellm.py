"""Any model as a provider, through litellm against the stand-in server, and as the improver that users name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_litellm.improver import LiteLLM
from sia_litellm.policy import Served
from sia_litellm.provider import Completions, _plain
from sia_llm.models import Ask, CallFailed, Prices, Provider, Tool, ToolCall, results, told
from sia_testing.model_server import Asked, ModelServer, Turn
from sia_testing.providers import KEY, READ, ProviderContract

# litellm leaves clients and an event loop to the garbage collector, and uses what pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")


class TestCompletions(ProviderContract):
    model = "openai/any-model"

    def url(self, server: ModelServer) -> str:
        return server.openai_url

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)

        @contextmanager
        def opened(url: str) -> Iterator[Provider]:
            yield Completions(url, 0.5, None)

        return opened

    def test_a_server_of_ones_own_is_asked_without_a_key(self, monkeypatch: pytest.MonkeyPatch, opened: Any) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with ModelServer([Turn("so")]) as server, opened(server.openai_url) as provider:
            provider.check(self.model, "--improver litellm:openai/any-model")
            assert provider.complete(self.ask()).text == "so"
            assert server.asked[0].body["model"] == "any-model"


@pytest.mark.parametrize(("settings", "sent"), [({}, None), ({"max_tokens": "9000"}, 9000)])
def test_a_policy_is_sent_the_limit_that_the_user_named_and_else_none(
    settings: dict[str, str], sent: int | None
) -> None:
    with ModelServer([Turn("so")]) as server:
        engine = Served("openai/m", base_url=server.openai_url, **settings)
        engine.provider.complete(Ask("openai/m", (), (told("hello"),), max_tokens=engine.max_tokens))
        assert server.asked[0].body.get("max_tokens") == sent


def conversation(model: str) -> Ask:
    """A conversation of which the first of two exchanges was folded."""
    call = ToolCall("call_1", "read", {"path": "harness.py"})
    reply = {"role": "assistant", "text": "", "calls": [vars(call)], "raw": None}
    message = results([(call, "a line", False)])
    messages = (told("first"), reply, {**message, "folded": True}, reply, message)
    return Ask(model, ("rules", "task"), messages, (READ,), max_tokens=500)


def marked(request: Asked) -> list[int]:
    """The messages that are marked for a cache."""
    return [place for place, message in enumerate(request.body["messages"]) if "cache_control" in str(message)]


def test_a_model_of_claude_has_the_ends_of_what_stands_still_marked_for_its_cache() -> None:
    model = "anthropic/claude-sonnet-4-6"
    with ModelServer([Turn("so"), Turn("so")]) as server:
        provider = Completions(server.url, 5.0, None)
        provider.complete(conversation(model))
        provider.complete(Ask(model, ("rules",), (told("a single question"),)))
        conversed, single = server.asked
    assert marked(conversed) == [0, 2, 4]
    assert conversed.body["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in single.text


def test_a_model_whose_provider_caches_by_itself_is_sent_no_marks() -> None:
    with ModelServer([Turn("so")]) as server:
        Completions(server.openai_url, 5.0, None).complete(conversation("openai/gpt-4o"))
        assert "cache_control" not in server.asked[0].text


class Stream:
    """A stream of litellm's that breaks at its first chunk and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.completion_stream = self

    def __iter__(self) -> Iterator[Any]:
        raise ConnectionError("cut")

    def close(self) -> None:
        self.closed += 1


def test_a_stream_is_closed_whatever_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to the garbage collector, it may close amid another call, under a lock that this thread holds already."""
    provider, stream = Completions("http://localhost:1/v1", 1.0, None), Stream()
    monkeypatch.setattr(provider._library, "completion", lambda **_: stream)
    with pytest.raises(CallFailed, match="cut"):
        provider.complete(Ask("openai/any", ("rules", "task"), (told("hello"),), (), max_tokens=5))
    assert stream.closed == 1


def test_a_setting_that_a_model_does_not_take_is_left_out_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """litellm's advice, to set ``litellm.drop_params``, is nothing that a user of a command can follow."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask = Ask("openai/gpt-5", (), (told("hello"),), max_tokens=500, temperature=0.0)
    with ModelServer([Turn("so"), Turn("so")]) as server:
        provider = Completions(server.openai_url, 5.0, None)
        assert [provider.complete(ask).text for _ in range(2)] == ["so", "so"]
        assert "temperature" not in server.asked[0].body
    (warning,) = caplog.messages
    assert "temperature=0" in warning
    assert "litellm" not in warning


def test_a_model_that_takes_no_tools_is_refused_in_words_that_a_user_can_follow() -> None:
    tool = Tool("read", "", {"type": "object"})
    with pytest.raises(CallFailed, match="Choose a model that takes tools") as refused:
        Completions("http://127.0.0.1:9", 1.0, None).complete(Ask("perplexity/sonar", (), (told("hello"),), (tool,)))
    assert (refused.value.retry, refused.value.refused) == (False, True)
    assert "litellm" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("litellm.BadRequestError: OpenAIException - too long. Set `litellm.set_verbose=True`.", "too long."),
        ("litellm.InternalServerError: AnthropicException - down. Handle with `litellm.InternalServerError`.", "down."),
        ("litellm.APIConnectionError: refused\nTraceback ...", "refused"),
        ("the model's own. Two sentences.", "the model's own. Two sentences."),
    ],
)
def test_an_error_is_told_as_its_provider_said_it(text: str, message: str) -> None:
    assert _plain(text) == message


def test_prices_are_the_users_or_the_tables_and_of_a_server_of_ones_own_not_known() -> None:
    hosted = Completions("", 1.0, None)
    prices = hosted.prices("gpt-4o-mini")
    assert prices is not None
    assert (prices.input, prices.output, prices.cache_read) == (0.15, 0.6, 0.075)
    assert hosted.prices("openai/a-model-that-nobody-knows") is None
    assert Completions("http://localhost:1/v1", 1.0, None).prices("gpt-4o-mini") is None
    assert Completions("http://localhost:1/v1", 1.0, Prices(1.0, 2.0)).prices("x") == Prices(1.0, 2.0)


@pytest.mark.parametrize(
    ("model", "names"),
    [("openai/gpt-4o", ["OPENAI_API_KEY", "--improver playbook"]), ("nonsense", ["PROVIDER/MODEL"]), ("", ["name a"])],
)
def test_without_key_or_provider_or_model_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, model: str, names: list[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError) as refused:
        LiteLLM(model).check()
    assert all(name in str(refused.value) for name in names)


def test_a_file_with_variables_above_the_library_says_nothing_of_where_a_key_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes = []

    def imported(name: str) -> SimpleNamespace:
        modes.append(os.environ.get("LITELLM_MODE"))  # it reads a file .env where this says DEV, or nothing
        return SimpleNamespace()

    monkeypatch.delenv("LITELLM_MODE", raising=False)
    monkeypatch.setattr(importlib, "import_module", imported)
    assert Completions(None, 1.0, None)._library
    assert modes == ["PRODUCTION"]


def test_where_litellm_is_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(UsageError, match=r"--policy openai/m needs litellm .*: pip install sia-litellm"):
        Completions("", 5.0, None).check("openai/m", "--policy openai/m")
