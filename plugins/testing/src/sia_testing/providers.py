"""The contract of providers of language models, for plugin authors to inherit, against the stand-in server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest

from sia_llm.models import Ask, CallFailed, Provider, Reply, Tool, Usage, results, told
from sia_testing.model_server import Fault, ModelServer, Turn, Use
from sia_testing.wire import PIECE

READ = Tool("read", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
KEY = "sk-a-key-that-is-planted"

NO_REPLY = {
    "nothing": ("text/event-stream", b""),
    "nothing, as JSON": ("application/json", b""),
    "sign-in page": ("text/html", b"<html>sign in</html>"),
    "error in a 200": ("application/json", b'{"error": {"message": "Upstream overloaded", "code": 502}}'),
    "error as a text": ("application/json", b'{"error": "overloaded"}'),
    "an object of another kind": ("application/json", b'{"object": "list", "data": []}'),
    "truncated": ("application/json", b'{"id": "c", "object": "chat.completion", "choices": [{"index": 0, "mess'),
    "a list": ("application/json", b"[]"),
    "null": ("application/json", b"null"),
    "an event that is no JSON": ("text/event-stream", b"event: message_start\ndata: {nope\n\n"),
    "an event that is no chunk": ("text/event-stream", b'event: message_start\ndata: {"type": "message_start"}\n\n'),
}
"""Replies with status 200 from servers and from their proxies."""

Opened = Callable[[str], AbstractContextManager[Provider]]


class ProviderContract:
    """``class TestMine(ProviderContract)`` with ``url(server)`` and a fixture ``opened``.

    ``opened(url)`` is a context with a provider that asks there, with :data:`KEY` as its
    key and a time limit of half a second without a byte. ``model`` is a name that it takes.
    """

    model: ClassVar[str]

    def url(self, server: ModelServer) -> str:
        """The address by which the provider asks the stand-in server."""
        raise NotImplementedError

    def ask(self, *messages: Any, tools: tuple[Tool, ...] = (READ,)) -> Ask:
        """A request with these messages, or with one that says hello."""
        return Ask(self.model, ("rules", "task"), messages or (told("hello"),), tools, max_tokens=500)

    @pytest.fixture
    def asked_of(self, opened: Opened) -> Callable[..., Any]:
        """``asked_of(turn, request)`` is what a provider makes of a turn: the reply, or the failure."""

        def asked(turn: Turn, request: Ask | None = None) -> Reply | CallFailed:
            with ModelServer([turn]) as server, opened(self.url(server)) as provider:
                try:
                    return provider.complete(request or self.ask())
                except CallFailed as failure:
                    return failure

        return asked

    def test_a_text_and_tools_and_usage_arrive(self, asked_of: Callable[..., Any]) -> None:
        use = Use("read", {"path": "harness.py", "why": "“quotes”\nand more than one event of a stream, to be sure"})
        usage = {"input": 100, "output": 7, "cache_read": 50}
        reply = asked_of(Turn("I look. " * 20, [use, use], usage=usage))
        assert reply.text == "I look. " * 20
        assert [(call.name, call.arguments) for call in reply.calls] == [("read", use.arguments)] * 2
        assert len({call.id for call in reply.calls}) == 2
        assert reply.ended == "tools"
        assert reply.usage == Usage(input=100, output=7, cache_read=50)
        assert Reply.from_json(reply.to_json()) == reply

    def test_a_conversation_goes_on_with_what_was_said_and_what_tools_gave(self, opened: Opened) -> None:
        script = [Turn("I look.", [Use("read", {"path": "a"}), Use("read", '{"path": ')]), Turn("thanks")]
        with ModelServer(script) as server, opened(self.url(server)) as provider:
            first = provider.complete(self.ask())
            good, bad = first.calls
            assert bad.arguments == '{"path": '
            message = results([(good, "the content", False), (bad, "not JSON", True)])
            second = provider.complete(self.ask(told("hello"), first.message, message))
            assert second.text == "thanks"
            assert server.asked[1].results == ["the content", "not JSON"]
            text = server.asked[1].text
        assert text.index("I look.") < text.index("the content") < text.index("not JSON")
        assert good.id in text

    def test_a_recorded_conversation_continues(self, opened: Opened) -> None:
        with ModelServer([Turn("I look.", [Use("read")]), Turn("thanks")]) as server, opened(self.url(server)) as one:
            first = Reply.from_json(one.complete(self.ask()).to_json())
            message = results([(first.calls[0], "the content", False)])
            assert one.complete(self.ask(told("hello"), first.message, message)).text == "thanks"

    @pytest.mark.parametrize("ended", ["length", "refusal", "end"])
    def test_how_a_reply_ended_is_known(self, asked_of: Callable[..., Any], ended: Any) -> None:
        assert asked_of(Turn("so", ended=ended)).ended == ended

    def test_tools_that_a_limit_cut_short_are_malformed_and_not_guessed(self, asked_of: Callable[..., Any]) -> None:
        reply = asked_of(Turn(uses=[Use("read", '{"path": "harn')], ended="length"))
        assert reply.ended == "length"
        assert [call.arguments for call in reply.calls] == ['{"path": "harn']

    @pytest.mark.parametrize("status", [429, 500, 503, 529])
    def test_what_may_pass_is_to_be_tried_again_and_was_not_paid_for(
        self, asked_of: Callable[..., Any], status: int
    ) -> None:
        failure = asked_of(Turn(fault=Fault(status, retry_after=7)))
        assert (failure.retry, failure.paid) == (True, False)
        assert str(status) in str(failure)
        assert failure.after == (7.0 if status == 429 else failure.after)

    @pytest.mark.parametrize(
        "header", ["7", " 7.5 ", "Sun, 06 Nov 2044 08:49:37 GMT", "Sunday, 06-Nov-44 08:49:37 GMT"]
    )
    def test_the_wait_that_a_server_asks_for_is_known_in_seconds_or_as_a_date(
        self, asked_of: Callable[..., Any], header: str
    ) -> None:
        assert asked_of(Turn(fault=Fault(429, retry_after=header))).after >= 7

    @pytest.mark.parametrize(("header", "wait"), [("Sun, 06 Nov 1994 08:49:37 GMT", 0), ("soon", None), ("-3", None)])
    def test_a_wait_that_is_over_is_none_and_one_that_cannot_be_read_is_the_clients_own(
        self, asked_of: Callable[..., Any], header: str, wait: float | None
    ) -> None:
        assert asked_of(Turn(fault=Fault(429, retry_after=header))).after == wait

    def test_a_wait_in_milliseconds_is_known(self, asked_of: Callable[..., Any]) -> None:
        limited = Fault(429, body=b"{}", headers={"retry-after-ms": "1500", "retry-after": "60"})
        assert asked_of(Turn(fault=limited)).after == 1.5

    @pytest.mark.parametrize("body", NO_REPLY.values(), ids=NO_REPLY)
    def test_what_is_no_reply_is_a_failed_call_to_be_tried_again(
        self, asked_of: Callable[..., Any], body: tuple[str, bytes]
    ) -> None:
        failure = asked_of(Turn(fault=Fault(body=body[1], headers={"content-type": body[0]})))
        assert isinstance(failure, CallFailed)
        assert (failure.retry, failure.refused) == (True, False)

    def test_a_server_that_does_not_stream_is_understood(self, asked_of: Callable[..., Any]) -> None:
        usage = {"input": 9, "output": 7}
        reply = asked_of(Turn("I look.", [Use("read", {"path": "a"})], usage=usage, fault=Fault(whole=True)))
        assert (reply.text, reply.ended, reply.usage) == ("I look.", "tools", Usage(9, 7))
        assert [(call.name, call.arguments) for call in reply.calls] == [("read", {"path": "a"})]

    def test_a_character_that_was_cut_in_two_by_the_stream_is_joined(self, asked_of: Callable[..., Any]) -> None:
        reply = asked_of(Turn("x" * (PIECE - 1) + "\ud83d\ude00"))
        assert Reply.from_json(reply.to_json()).text == "x" * (PIECE - 1) + "\N{GRINNING FACE}"

    @pytest.mark.parametrize("written", ['{"path": NaN}', '{"path": 1e999}', '{"path": 1, "path": 2}', "[1]", "null"])
    def test_arguments_that_are_no_strict_json_object_are_malformed(
        self, asked_of: Callable[..., Any], written: str
    ) -> None:
        assert [call.arguments for call in asked_of(Turn(uses=[Use("read", written)])).calls] == [written]

    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_what_cannot_pass_is_not_to_be_tried_again(self, asked_of: Callable[..., Any], status: int) -> None:
        failure = asked_of(Turn(fault=Fault(status)))
        assert (failure.retry, failure.paid, failure.refused) == (False, False, status == 400)

    @pytest.mark.parametrize("events", [1, 4, 8])
    def test_a_stream_that_is_cut_may_have_been_paid_for(self, asked_of: Callable[..., Any], events: int) -> None:
        failure = asked_of(Turn("a text of several events " * 20, fault=Fault(cut_after=events)))
        assert (failure.retry, failure.paid) == (True, True)

    def test_a_server_that_falls_silent_is_given_up_and_may_have_been_paid(self, asked_of: Callable[..., Any]) -> None:
        failure = asked_of(Turn("a text", fault=Fault(pause=60)))
        assert (failure.retry, failure.paid) == (True, True)

    def test_a_server_that_is_not_there_was_not_paid(self, opened: Opened) -> None:
        with ModelServer([]) as server:
            url = self.url(server)
        with opened(url) as provider, pytest.raises(CallFailed) as failure:
            provider.complete(self.ask())
        assert (failure.value.retry, failure.value.paid) == (True, False)

    def test_an_error_that_tells_the_key_is_told_without_it(self, asked_of: Callable[..., Any]) -> None:
        message = f"the key {KEY} is wrong"
        error = json.dumps({"error": {"message": message}}).encode()
        for fault in (Fault(401, message=message), Fault(body=error), Fault(body=message.encode())):
            failure = asked_of(Turn(fault=fault))
            assert fault.body == message.encode() or "is wrong" in str(failure)
            assert KEY not in str(failure)
