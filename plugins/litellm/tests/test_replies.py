"""Raw chat-completion responses, valid, unusual or broken, and the reply or the error read from each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sia_litellm.provider import Completions
from sia_litellm.replies import MOST_CALLS, _Call, _PartialReply, reply
from sia_llm.hosted_policy import HostedGateway
from sia_llm.models import Ask, CallFailed, Logprob, Patience, Reply, ToolCall, Usage, told
from sia_llm.server_replies import parsed
from sia_testing.model_server import Fault, ModelServer, Turn

pytestmark = pytest.mark.filterwarnings("ignore")  # litellm leaves clients and an event loop to the garbage collector

STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


def chunk(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def part(index: Any, id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tools(*parts: Any) -> dict[str, Any]:
    return chunk({"tool_calls": list(parts)})


SAID = chunk({"content": "ok"})
END = chunk({}, "stop")
DONE = "[DONE]"


def sse(*events: Any) -> bytes:
    texts = (each if isinstance(each, str) else json.dumps(each) for each in events)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def completion(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def got(body: bytes, headers: Any = STREAM, model: str = "openai/m", n: int = 1) -> Reply | CallFailed:
    with ModelServer([Turn(fault=Fault(body=body, headers=headers))]) as server:
        try:
            return Completions(server.openai_url, 5.0, None).complete(Ask(model, (), (told("hello"),), n=n))
        except CallFailed as failure:
            return failure


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GROQ", "OPENROUTER"):
        monkeypatch.setenv(f"{name}_API_KEY", "a-key-that-is-none")


@pytest.mark.parametrize("model", ["openai/m", "groq/m", "openrouter/m"])
def test_a_server_of_any_chat_completions_that_does_not_stream_is_understood(model: str) -> None:
    reply = got(completion(content="ok"), JSON, model)
    assert isinstance(reply, Reply)
    assert reply.text == "ok"


COUNTED = {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}


@pytest.mark.parametrize("usage", [COUNTED, {"x_groq": COUNTED}])
def test_tokens_are_counted_wherever_they_stand(usage: dict[str, Any]) -> None:
    reply = got(sse(SAID, END, {"choices": [], **usage}, DONE))
    assert isinstance(reply, Reply)
    assert reply.usage == Usage(9, 2)


def choice(index: Any, content: str, finish: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content}, "finish_reason": finish}]}


SEVERAL = [choice(1, "b"), choice(0, "a", None), choice(2, "c"), choice(0, "a")]
ONE_USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([*SEVERAL, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 6}}], Usage(9, 6)),
        ([*SEVERAL, ONE_USAGE, ONE_USAGE, ONE_USAGE], Usage(9, 6)),  # llama.cpp: one a choice
        ([*SEVERAL, ONE_USAGE, choice(7, "x"), choice("1", "x"), choice([1], "x")], Usage(9, 2)),
    ],
)
def test_several_replies_are_put_together_by_their_index_and_what_was_not_asked_for_is_left_out(
    events: list[Any], usage: Usage
) -> None:
    reply = got(sse(*events, DONE), n=3)
    assert isinstance(reply, Reply)
    assert [reply.text, *(each.text for each in reply.others)] == ["aa", "b", "c"]
    assert reply.usage == usage
    assert Reply.from_json(reply.to_json()) == reply
    alone = got(sse(*SEVERAL, DONE))
    assert isinstance(alone, Reply)
    assert (alone.text, alone.others) == ("aa", ())


def test_one_of_several_replies_that_is_cut_makes_the_call_fail() -> None:
    assert isinstance(got(sse(choice(0, "a"), choice(1, "b", None), DONE), n=2), CallFailed)


def with_logprobs(*content: Any) -> dict[str, Any]:
    document = choice(0, "ü")
    document["choices"][0]["logprobs"] = {"content": list(content)}
    return document


def test_log_probabilities_are_read_and_what_is_none_is_a_failed_call() -> None:
    row = {"token": "ü", "logprob": -0.5, "bytes": [195, 188], "id": 7, "top_logprobs": [{"token": "x"}]}
    reply = got(sse(with_logprobs(row, {**row, "bytes": [999]}), DONE))
    assert isinstance(reply, Reply)
    assert reply.logprobs == (Logprob("ü", -0.5, (195, 188)),) * 2
    assert Reply.from_json(reply.to_json()) == reply
    for wrong in ({**row, "logprob": None}, {**row, "logprob": True}, {**row, "token": 7}, "x"):
        assert isinstance(got(sse(with_logprobs(wrong), DONE)), CallFailed)
    for wrong in (b"NaN", b"7", b"1" * 400):
        failure = got(sse(with_logprobs(row), DONE).replace(b"-0.5", wrong))
        assert "no log-probability" in str(failure)


def test_log_probabilities_of_many_parts_are_put_behind_each_other_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_litellm.replies.MOST_LOGPROBS", 6)
    rows = [{"token": each, "logprob": -1.0, "bytes": None} for each in "abcdefg"]
    parts = [with_logprobs(*rows[:2]), with_logprobs(), with_logprobs(*rows[2:6])]
    reply = got(sse(*parts, DONE))
    assert isinstance(reply, Reply)
    assert [each.token for each in reply.logprobs or ()] == list("abcdef")
    failure = got(sse(*parts, with_logprobs(rows[6]), DONE))
    assert "more than 6 tokens" in str(failure)
    whole = _PartialReply()
    whole.add(parts[0]["choices"][0])
    before = whole.logprobs
    whole.add(parts[2]["choices"][0])
    assert whole.logprobs is before  # a copy for each part would take quadratic time


def test_a_body_of_values_without_end_is_not_made_into_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_litellm.replies.parsed", partial(parsed, most=1000))
    failure = got(json.dumps({"choices": json.loads(completion(content="ok"))["choices"] * 1000}).encode(), JSON)
    assert "no completion" in str(failure)


def test_a_tools_name_has_an_end_and_its_arguments_are_not_copied_for_each_part() -> None:
    call = _Call(0)
    for each in ("a", "b", "c"):
        call.add({}, "", each)
    assert call.parts == ["a", "b", "c"]
    assert call.arguments == "abc"
    failure = got(sse(tools(part(0, "x", "n" * 1001, ONE)), chunk({}, "tool_calls"), DONE))
    assert "more than 1,000 characters" in str(failure)


def test_what_a_request_says_of_its_sampling_is_sent() -> None:
    settings = {"temperature": 0.5, "top_p": 0.9, "stop": ("END",), "n": 2, "logprobs": True}
    with ModelServer([Turn("so"), Turn("so")]) as server:
        provider = Completions(server.openai_url, 5.0, None)
        provider.complete(Ask("openai/m", (), (told("hello"),), **settings))
        provider.complete(Ask("openai/m", (), (told("hello"),)))
        full, plain = (request.body for request in server.asked)
    assert {name: full[name] for name in settings} == {**settings, "stop": ["END"]}
    assert not settings.keys() & plain.keys()


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
@pytest.mark.parametrize(
    "body",
    [
        sse(SAID),
        sse(SAID, DONE),
        sse(DONE),
        sse(SAID, {"error": {"message": "the worker died", "code": 500}}),
        sse({"error": "the worker died"}),
        b'event: error\ndata: {"message": "the worker died"}\n\n',
        sse(SAID, chunk({}, "error")),
        sse(SAID, chunk({}, "insufficient_system_resource"), DONE),
        sse(SAID, chunk({}, "ABORT"), DONE),
        sse(SAID, {"choices": [{"index": 0, "delta": {}, "finish_reason": {"type": "abort"}}]}, DONE),
        json.dumps({"choices": [{"index": 0, "finish_reason": "stop"}]}).encode(),
        json.dumps({"choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}]}).encode(),
        completion(content=None, tool_calls=[None]),
        sse({**SAID, "choices": []}, DONE),
        sse({**SAID, "choices": None}, END),
        sse("{nope", END),
        completion()[:-30],
        json.dumps({"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}).encode(),
        json.dumps({"choices": []}).encode(),
        json.dumps({"choices": ["ok"]}).encode(),
        b'{"detail": "Not authenticated"}',
        b"<!doctype html>",
        b"upstream connect error",
    ],
)
def test_what_is_no_whole_reply_is_a_failed_call_to_be_tried_again(body: bytes, model: str) -> None:
    failure = got(body, model=model)
    assert isinstance(failure, CallFailed)
    assert failure.retry


@pytest.mark.parametrize(
    ("body", "headers"),
    [(completion(content=None, refusal="I cannot"), JSON), (sse(chunk({"refusal": "I cannot"}), END, DONE), STREAM)],
)
def test_a_refusal_is_the_text_and_the_end_of_a_reply(body: bytes, headers: Any) -> None:
    reply = got(body, headers)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.ended) == ("I cannot", "refusal")


def test_no_count_of_tokens_is_below_zero() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": -7, "prompt_tokens_details": {"cached_tokens": 9}}
    reply = got(sse(SAID, END, {"choices": [], "usage": usage}, DONE))
    assert isinstance(reply, Reply)
    assert reply.usage == Usage(0, 0, 9)


def test_a_body_that_cannot_be_unpacked_is_a_failed_call() -> None:
    headers = {**STREAM, "content-encoding": "gzip"}
    failure = got(b"garbage", headers)
    assert isinstance(failure, CallFailed)
    assert (failure.retry, failure.paid) == (True, True)
    reply = got(gzip.compress(sse(SAID, END)), headers)
    assert isinstance(reply, Reply)
    assert reply.text == "ok"


@pytest.mark.parametrize(
    ("error", "retry", "refused"),
    [
        ({"message": "too long", "type": "BadRequestError", "code": 400}, False, True),
        ({"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}, False, True),
        ({"message": "bad key", "code": "401"}, False, False),
        ({"message": "slow down", "code": 429}, True, False),
        ({"message": "overloaded", "code": 502}, True, False),
        ({"message": "overloaded", "code": "\u00b2"}, True, False),
        ({"message": "overloaded", "code": "9" * 5000}, True, False),
        ({"message": "too long", "code": "1261", "type": "invalid_request_error"}, False, True),
    ],
)
@pytest.mark.parametrize("headers", [STREAM, JSON])
def test_an_error_in_the_place_of_a_reply_is_what_its_status_would_have_been(
    error: Any, retry: bool, refused: bool, headers: Any
) -> None:
    body = json.dumps({"error": error}).encode()
    failure = got(body if headers is JSON else sse({"error": error}), headers)
    assert isinstance(failure, CallFailed)
    assert (failure.retry, failure.refused, failure.paid) == (retry, refused, False)
    assert error["message"] in str(failure)


@pytest.mark.parametrize("headers", [STREAM, JSON, {"content-type": "text/plain"}])
@pytest.mark.parametrize(
    "body",
    [
        completion(content="ok"),
        b"\n" + completion(content=[{"type": "text", "text": "o"}, {"type": "text", "text": "k"}]),
        sse(SAID, END),
        sse(SAID, END, DONE),
        b": keep-alive\n\n" + sse(SAID, chunk(None, "eos")),
        sse(SAID, END).replace(b"\n", b"\r\n"),
        sse(SAID, END).rstrip(),
        sse({**SAID, "id": 7, "object": "text"}, {**END, "choices": [*END["choices"], chunk({"content": "no"})]}),
    ],
)
def test_a_whole_reply_is_taken_whatever_stands_around_it(body: bytes, headers: Any) -> None:
    reply = got(body, headers)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.ended, reply.usage) == ("ok", "end", Usage())


A, B = ("read", {"path": "a"}), ("find", {"path": "b"})
ONE, TWO = '{"path": "a"}', '{"path": "b"}'


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        ([tools(part(0, "x", "read", ONE)), tools(part(0, "y", "find", TWO))], [A, B]),
        ([tools(part(0, "x", "read", ONE), part(0, "y", "find", TWO))], [A, B]),
        ([tools(part(None, "x", "read", ONE)), tools(part(None, "y", "find", TWO))], [A, B]),
        ([tools(part(0, None, "read", ONE)), tools(part(0, None, "find", TWO))], [A, B]),
        ([tools(part(0, None, "read", ONE)), tools(part(0, None, "read", TWO))], [A, ("read", {"path": "b"})]),
        ([tools(part(0, "", "read", ""), part(0, "", "find", ""))], [("read", {}), ("find", {})]),
        ([tools(part(0, "x", "read", "")), tools(part(0, "y", "read", ""))], [("read", {}), ("read", {})]),
        ([tools(part(0, "x", "read", ONE[:4])), tools(part(0, None, None, ONE[4:]))], [A]),
        ([tools(part(0, "x", "read", ONE[:4])), tools(part(0, "x", "read", ONE[4:]))], [A]),
        ([tools(part(0, "x", "read", ONE[:4])), tools(part(0, "z", None, ONE[4:]))], [A]),
        ([tools(part(None, "x", "read", ONE[:4])), tools(part(None, None, None, ONE[4:]))], [A]),
        ([tools(part(0, "x", "re", "")), tools(part(0, None, "ad", "")), tools(part(0, None, None, ONE))], [A]),
        (
            [
                tools(part(0, "x", "read", ONE[:4]), part(1, "y", "find", TWO[:4])),
                tools(part(1, None, None, TWO[4:]), part(0, None, None, ONE[4:])),
            ],
            [A, B],
        ),
        ([tools(part(0, "x", "read", ONE)), tools(part(1, "x", "find", TWO))], [A, B]),
        ([tools(part(0, "x", "read", {"path": "a"}))], [A]),
        ([tools(part(0, "x", "read", None))], [("read", {})]),
        ([tools(part(0, "x", "read", " "))], [("read", {})]),
        ([tools(part(0, "x", "read", '{"path": '))], [("read", '{"path": ')]),
        ([tools(part(0, "x", "read", '{"path": NaN}'))], [("read", '{"path": NaN}')]),
        ([tools(part(0, "x", "read", '{"path": %s}' % ("[" * 9000)))], [("read", '{"path": %s}' % ("[" * 9000))]),
        ([tools(part(0, "x", "read", '{"path": %s}' % ("9" * 400)))], [("read", '{"path": %s}' % ("9" * 400))]),
        (
            [
                chunk({"function_call": {"name": "read", "arguments": ONE[:3]}}),
                chunk({"function_call": {"arguments": ONE[3:]}}),
            ],
            [A],
        ),
    ],
)
def test_each_call_of_a_tool_is_one_call_however_its_parts_are_named(chunks: Any, calls: Any) -> None:
    reply = got(sse(*chunks, chunk({}, "tool_calls"), DONE))
    assert isinstance(reply, Reply)
    assert [(call.name, call.arguments) for call in reply.calls] == calls
    assert all(call.id for call in reply.calls)
    assert len({call.id for call in reply.calls}) == len(calls)


class Engine:
    """A policy that is served by a self-hosted server."""

    can: frozenset[str] = frozenset()
    model = "openai/m"
    dollars = None
    patience = Patience(tries=3, first=0.0)

    def __init__(self, url: str) -> None:
        self.provider = Completions(url, 5.0, None)


@pytest.mark.parametrize("content", [5, 0, True, {"text": 5}, [["ok"]], [{"type": "text", "text": ["ok"]}]])
def test_what_is_no_text_is_a_failed_call_and_never_an_empty_answer(content: Any) -> None:
    reply = got(completion(content=content), JSON)
    assert isinstance(reply, CallFailed), reply
    assert reply.retry
    assert reply.paid
    assert "no text" in str(reply)


def test_no_two_calls_of_tools_have_one_id_when_a_server_names_but_some() -> None:
    unnamed = part(1, None, "second", "{}")
    reply = got(sse(tools(part(0, "call_1", "first", "{}"), unnamed), chunk({}, "tool_calls"), DONE))
    assert isinstance(reply, Reply), reply
    assert len({call.id for call in reply.calls}) == 2
    reply = got(sse(tools(part(0, None, "first", "{}"), part(1, "call_0", "second", "{}")), END, DONE))
    assert isinstance(reply, Reply), reply
    assert [call.id for call in reply.calls][1] == "call_0"  # what a server gave is kept
    assert reply.calls[0].id != "call_0"


def test_an_agent_that_is_always_right_is_right_through_a_server_that_fails_every_second_time(tmp_path: Path) -> None:
    failures = [
        Fault(body=b'{"error": {"message": "overloaded", "code": 502}}'),
        Fault(body=b"<html>sign in", headers={"content-type": "text/html"}),
        Fault(body=sse(SAID), headers=STREAM),
        Fault(body=b"", headers=STREAM),
        Fault(status=503),
        Fault(302, body=b"", headers={"location": "/login"}),
    ]
    script = [turn for fault in failures for turn in (Turn(fault=fault), Turn("right"))]
    question = {"messages": [{"role": "user", "content": "?"}]}
    with ModelServer(script) as server:
        gateway = HostedGateway(Engine(server.openai_url), tmp_path)
        gateway.begin("one", 0)
        replies = [gateway.ask("one", question).result() for _ in failures]
        gateway.finish("one")
        gateway.close()
        resumed = HostedGateway(Engine(server.openai_url), tmp_path)
        resumed.begin("one", 0)
        assert [resumed.ask("one", question).result() for _ in failures] == replies
        resumed.close()
        assert len(server.asked) == len(script)
    assert {each["choices"][0]["message"]["content"] for each in replies} == {"right"}


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m", "openrouter/m"])
def test_no_stream_is_left_to_the_garbage_collector(model: str) -> None:
    """Collected amid another call, it closes its connection under a lock that the thread holds already."""
    with ModelServer([Turn("so")] * 40) as server:
        provider = Completions(server.openai_url, 5.0, None)
        for _ in range(40):
            provider.complete(Ask(model, (), (told("hello"),)))


@pytest.mark.parametrize("model", ["openai/m", "groq/m", "openrouter/m", "hosted_vllm/m"])
@pytest.mark.parametrize("body", [sse(*[SAID] * 200, END), b"data: " + b"x" * 50_000])
def test_a_reply_that_does_not_end_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch, model: str, body: bytes
) -> None:
    monkeypatch.setattr("sia_litellm.replies.MOST_BYTES", 10_000)
    failure = got(body, model=model)
    assert isinstance(failure, CallFailed)
    assert "more than 10,000 bytes" in str(failure)
    assert not failure.retry


class Endless:
    """A stream of a provider whose bytes litellm does not hand on."""

    completion_stream = None
    received_finish_reason = None

    def __iter__(self) -> Iterator[Any]:
        from litellm.types.utils import ModelResponseStream

        while True:
            yield ModelResponseStream(choices=[{"index": 0, "delta": {"content": "ok"}}])


def test_nor_is_one_whose_bytes_are_litellms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_litellm.replies.MOST_BYTES", 10_000)
    with pytest.raises(CallFailed, match="more than 10,000 bytes"):
        reply(Endless())


def test_a_reply_of_calls_without_end_is_none() -> None:
    failure = got(sse(*[tools(part(each, f"id-{each}", "look", "{}")) for each in range(MOST_CALLS + 1)], END))
    assert isinstance(failure, CallFailed)
    assert "more than 256 times" in str(failure)


def test_arguments_that_come_under_ever_new_ids_are_not_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    written = ToolCall.written
    monkeypatch.setattr(ToolCall, "written", lambda *arguments: [calls.append(arguments), written(*arguments)][1])
    parts = [tools(part(0, f"id-{each}", None, "a")) for each in range(4 * MOST_CALLS)]
    reply = got(sse(tools(part(0, "id", "look", '{"path": "')), *parts, tools(part(0, None, None, '"}')), END))
    assert isinstance(reply, Reply)
    assert reply.calls[0].arguments == {"path": "a" * 4 * MOST_CALLS}
    assert len(calls) <= MOST_CALLS + 1
