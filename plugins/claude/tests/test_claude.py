"""Claude as a provider, through its SDK against the stand-in server, and as the improver that users name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sia_claude.improver import Claude
from sia_claude.provider import PRICES, Messages
from sia_cli import main
from sia_core.errors import UsageError
from sia_llm import Settings
from sia_llm.models import CallFailed, Provider, results, told
from sia_testing.model_server import Fault, ModelServer, Turn, Use
from sia_testing.providers import KEY, ProviderContract


def settings(**more: Any) -> Settings:
    return Settings.of("claude-sonnet-4-6", more)


class TestMessages(ProviderContract):
    model = "claude-sonnet-4-6"

    def url(self, server: ModelServer) -> str:
        return server.url

    @pytest.fixture
    def opened(self) -> Any:
        @contextmanager
        def opened(url: str) -> Iterator[Provider]:
            yield Messages(KEY, settings(base_url=url, timeout=0.5))

        return opened

    def test_the_ends_of_what_stands_still_are_marked_for_the_cache_and_so_is_the_end(self, opened: Any) -> None:
        use = Use("read", {"path": "harness.py"})
        with ModelServer([Turn("so", [use]), Turn("so")]) as server, opened(server.url) as provider:
            reply = provider.complete(self.ask())
            message = results([(reply.calls[0], "a line", False)])
            folded = {**message, "folded": True}
            exchange = (reply.message, folded, reply.message, folded, reply.message, message)
            provider.complete(self.ask(told("first"), *exchange))
            body = server.asked[1].body
        assert [part.get("cache_control") for part in body["system"]] == [None, {"type": "ephemeral"}]
        marked = [place for place, each in enumerate(body["messages"]) if "cache_control" in each["content"][-1]]
        assert marked == [0, 4, 6]
        assert body["stream"] is True

    def test_arguments_of_calls_are_handed_back_as_the_conversation_keeps_them(self, opened: Any) -> None:
        use = Use("read", {"path": "a long path"})
        with ModelServer([Turn("so", [use]), Turn("so")]) as server, opened(server.url) as provider:
            reply = provider.complete(self.ask())
            short = {**reply.message, "calls": [{**reply.message["calls"][0], "arguments": {"path": "short"}}]}
            provider.complete(self.ask(told("first"), short, results([(reply.calls[0], "a line", False)])))
            sent = server.asked[1]
        assert [block.get("input") for block in sent.body["messages"][1]["content"]] == [None, {"path": "short"}]
        assert "a long path" not in sent.text

    def test_the_key_goes_to_no_other_server_that_a_reply_points_to(self, opened: Any) -> None:
        with ModelServer([Turn("so")]) as other:
            elsewhere = Fault(307, headers={"location": f"{other.url}/v1/messages"})
            with (
                ModelServer([Turn(fault=elsewhere)]) as server,
                opened(server.url) as provider,
                pytest.raises(CallFailed, match="307"),
            ):
                provider.complete(self.ask())
        assert other.asked == []

    def test_cache_writes_are_counted(self, asked_of: Any) -> None:
        assert asked_of(Turn("so", usage={"cache_write": 30})).usage.cache_write == 30


def test_the_prices_are_those_of_litellms_table() -> None:
    table = pytest.importorskip("litellm").model_cost
    provider = Messages(KEY, settings())
    models = [name for name in table if name.startswith(tuple(begins for begins, _ in PRICES))]
    assert "claude-sonnet-4-6" in models
    for name in models:
        prices = provider.prices(name)
        assert prices is not None
        rates = {
            "input_cost_per_token": prices.input,
            "output_cost_per_token": prices.output,
            "cache_read_input_token_cost": prices.cache_read,
            "cache_creation_input_token_cost": prices.cache_write,
        }
        assert rates == {each: pytest.approx(table[name][each] * 1e6) for each in rates}, name


def test_the_users_prices_come_first_and_an_unknown_model_has_none() -> None:
    assert Messages(KEY, settings()).prices("claude-next-9") is None
    told_by_user = Messages(KEY, settings(input_price="1", output_price="2")).prices("claude-next-9")
    assert told_by_user is not None
    assert (told_by_user.input, told_by_user.output, told_by_user.cache_read) == (1.0, 2.0, 1.0)


def test_without_a_key_the_variable_is_named_and_the_playbook_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    example = ["--harness", "examples/sums/agent", "--data", "examples/sums/cases.jsonl", "--verifier", "exact"]
    assert main(["run", *example, "--improver", "claude"]) == 2
    error = capsys.readouterr().err
    assert "ANTHROPIC_API_KEY" in error
    assert "--improver playbook" in error


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"api_key": "sk"}, "environment only"),
        ({"colour": "red"}, "there is no such setting. The settings are base_url"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"input_price": "3"}, "belong together"),
        ({"base_url": "http://me:secret@localhost"}, "no password"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], why: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(UsageError, match=why) as refused:
        Claude(**options)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)
