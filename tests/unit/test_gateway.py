"""The gateway answers as the OpenAI API does, the same whatever the order, and records exactly what was sampled."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sia_core.errors import ModelError, TrainingError
from sia_core.learning import Request, Sampled
from sia_runtime.worker.chat import parse, said
from sia_runtime.worker.completions import Refused, chunks
from sia_runtime.worker.gateway import MOST_CALLS, Gateway, Record
from sia_testing.engines import END, ScriptedEngine

ADD = {"type": "function", "function": {"name": "add"}}
USER = {"role": "user", "content": "hello"}


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def gateway(engine: ScriptedEngine) -> Iterator[Gateway]:
    instance = Gateway(engine)
    yield instance
    instance.close()


def using(engine: ScriptedEngine, *requests: Mapping[str, Any], **begin: Any) -> tuple[list[Any], Record]:
    """The replies to requests of one rollout, one after the other, and its record."""
    gateway = Gateway(engine)
    try:
        gateway.begin("r", 1, **begin)
        return [gateway.answer("r", request) for request in requests], gateway.finish("r")
    finally:
        gateway.close()


def ask(content: str = "hello", **settings: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **settings}


def text_of(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


# Replies.


def test_a_reply_is_a_chat_completion() -> None:
    (reply,), _ = using(ScriptedEngine("yes"), ask())
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "policy"
    (choice,) = reply["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "yes", "refusal": None},
        "finish_reason": "stop",
        "logprobs": None,
    }
    prompt = len("hello") + 3
    assert reply["usage"] == {"prompt_tokens": prompt, "completion_tokens": 4, "total_tokens": prompt + 4}
    json.dumps(reply)


def test_a_reply_that_is_too_long_says_so() -> None:
    (reply,), record = using(ScriptedEngine("a long one"), ask(max_tokens=3))
    assert (text_of(reply), reply["choices"][0]["finish_reason"]) == ("a l", "length")
    assert record.truncated


def test_replies_that_end_at_a_length_that_the_harness_did_not_name_are_counted() -> None:
    engine = ScriptedEngine(lambda *_: "a long reply " * 30)
    _, record = using(engine, ask(), ask(max_tokens=3), ask(max_tokens=1000), ask(n=2))
    assert (record.replies, record.cut, record.truncated) == (5, 3, True)


def test_logprobs_are_there_when_asked_for() -> None:
    (reply,), _ = using(ScriptedEngine("hi"), ask(logprobs=True))
    content = reply["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"]) for each in content] == [("h", -0.5), ("i", -0.5), ("", -0.5)]


def test_a_stop_string_ends_a_reply() -> None:
    (reply,), _ = using(ScriptedEngine("one. two"), ask(stop="."))
    assert (text_of(reply), reply["choices"][0]["finish_reason"]) == ("one", "stop")


def test_choices_and_prior_and_schema_reach_the_engine() -> None:
    engine = ScriptedEngine()
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}
    replies, _ = using(engine, ask(choices=["yes", "no"], prior=[0.0, -1.5]), ask(response_format=format_))
    assert text_of(replies[0]) in ("yes", "no")
    first, second = (batch[0] for batch in engine.batches)
    assert (first.choices, first.prior, first.schema) == (("yes", "no"), (0.0, -1.5), None)
    assert second.schema == {"type": "array"}


def test_an_engine_that_cannot_constrain_samples_freely() -> None:
    class Free(ScriptedEngine):
        can = frozenset({"train"})

    engine = Free("neither")
    (reply,), _ = using(engine, ask(choices=["yes", "no"]))
    assert text_of(reply) == "neither"


def test_an_engine_that_cannot_constrain_is_asked_for_a_call_in_words() -> None:
    class Free(ScriptedEngine):
        can = frozenset({"train"})

    engine = Free('<tool_call>{"name": "add", "arguments": {}}</tool_call>')
    (reply,), record = using(engine, ask(tools=[ADD], tool_choice="required"))
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    assert engine.tokens.decode(engine.batches[0][0].prompt).endswith(
        "Answer with a call of the tool add, and with nothing else."
    )
    assert engine.batches[0][0].schema is None
    assert record.turns[0]["messages"][0]["content"].startswith("hello")


def test_a_reply_that_was_cut_in_its_call_says_so() -> None:
    (reply,), record = using(
        ScriptedEngine('{"name": "add", "arg'), ask(tools=[ADD], tool_choice="required", max_tokens=9)
    )
    assert (text_of(reply), reply["choices"][0]["finish_reason"]) == ('{"name": ', "length")
    assert record.sampled_tokens == 9


def test_tokens_of_tries_for_a_call_are_all_charged() -> None:
    (reply,), record = using(ScriptedEngine("no"), ask(tools=[ADD], tool_choice="required", n=2))
    assert reply["error"]["code"] == "tool_use_failed"
    assert len(record.traces) == 6
    prompts = sum(len(trace.tokens) - sum(trace.mask) for trace in record.traces) // 2
    assert record.tokens == prompts + record.sampled_tokens
    assert record.tokens <= record.peak


@pytest.mark.parametrize(
    ("written", "handed_on"), [(r'"{\"a\": 1}"', '{"a": 1}'), ('"a is 1"', "a is 1"), ('{"a": 1}', '{"a": 1}')]
)
def test_arguments_are_handed_on_as_json_once(written: str, handed_on: str) -> None:
    engine = ScriptedEngine(f'<tool_call>{{"name": "add", "arguments": {written}}}</tool_call>')
    (reply,), _ = using(engine, ask(tools=[ADD]))
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == handed_on


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": 1e999}'])
def test_what_is_no_number_in_json_is_no_call(arguments: str) -> None:
    (reply,), _ = using(
        ScriptedEngine(f'<tool_call>{{"name": "add", "arguments": {arguments}}}</tool_call>'), ask(tools=[ADD])
    )
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_half_of_a_surrogate_pair_in_a_call_is_replaced() -> None:
    text = r'<tool_call>{"name": "add", "arguments": {"a": "\ud83d"}}</tool_call>'
    (reply,), record = using(ScriptedEngine(text), ask(tools=[ADD]))
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": "\ufffd"}'
    json.dumps(record.turns, ensure_ascii=False).encode()


def test_text_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    (whole, split), _ = using(ScriptedEngine(), ask(), {"messages": [{"role": "user", "content": parts}]})
    assert whole["usage"] == split["usage"]


def test_tool_calls_are_found_in_the_reply() -> None:
    engine = ScriptedEngine('let me see <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    (reply, plain), _ = using(engine, ask(tools=[ADD]), ask())
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "let me see"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": '{"a": 1}'})
    assert "tool_call>" in text_of(plain)


@pytest.mark.parametrize("broken", ['{"name": 3, "arguments": {}}', '{"name": "add"', "{}"])
def test_what_only_looks_like_a_tool_call_is_text(broken: str) -> None:
    (reply,), _ = using(ScriptedEngine(f"<tool_call>{broken}</tool_call>"), ask(tools=[ADD]))
    assert text_of(reply) == f"<tool_call>{broken}</tool_call>"
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("tool", [None, "add", {"function": "add"}, {"function": {"name": 1}}, []], ids=str)
def test_a_choice_of_what_is_no_tool_is_a_request_at_fault(tool: Any) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool]}}
    (reply,), _ = using(ScriptedEngine(), ask(tools=[ADD], tool_choice=allowed))
    assert reply["error"] | {"message": ""} == Refused("", "tool_choice", "invalid_value").body()["error"]


def test_a_reply_of_nothing_but_opening_tags_is_read_once_and_not_once_for_each_tag() -> None:
    """A model can be talked into it, and all rollouts wait for the thread that reads."""
    text = "<tool_call>{" * 100_000
    assert said(parse(ask(tools=[ADD])), text, "a")["content"] == text


def test_a_stream_holds_what_the_whole_reply_does() -> None:
    text = 'well <tool_call>{"name": "add", "arguments": {}}</tool_call>'
    (reply,), _ = using(ScriptedEngine(text), ask(tools=[ADD], n=2))
    parts = chunks(reply, usage=True)
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert [part["usage"] for part in parts if "usage" in part] == [reply["usage"]]
    choices = [choice for part in parts for choice in part["choices"]]
    assert [choice["index"] for choice in choices] == [0, 0, 1, 1]
    assert [choice["finish_reason"] for choice in choices] == [None, "tool_calls"] * 2
    delta = choices[0]["delta"]
    assert (delta["content"], delta["tool_calls"][0]["index"]) == ("well", 0)
    assert delta["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}


# Errors.


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{**USER, "colour": 1}]}, "messages.0.colour"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens="7"), "max_tokens"),
        (ask(max_tokens=10**9), "max_tokens"),
        (ask(temperature=-1), "temperature"),
        (ask(temperature=float("nan")), "temperature"),
        (ask(top_logprobs=3), "top_logprobs"),
        (ask(top_p=0), "top_p"),
        (ask(n=1000), "n"),
        (ask(stop=[""]), "stop"),
        (ask(choices=[]), "choices"),
        (ask(choices=["a", "a"]), "choices"),
        (ask(choices=["a"], prior=[1.0, 2.0]), "prior"),
        (ask(prior=[1.0]), "prior"),
        (ask(response_format={"type": "json_schema"}), "response_format.json_schema"),
        (ask("x" * 40_000), "messages"),
        (ask(magic=True), "magic"),
    ],
)
def test_a_bad_request_is_told_which_field_is_wrong(gateway: Gateway, request_: Any, param: str) -> None:
    gateway.begin("r", 1)
    error = gateway.answer("r", request_)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert error["message"].startswith(param)


class Short(ScriptedEngine):
    """Its policy reads and writes 20 tokens."""

    context = 20


def test_what_is_longer_than_the_policys_own_context_is_refused_with_the_counts() -> None:
    (fits, longer, no_room), record = using(Short("y" * 40), ask(max_tokens=12), ask(max_tokens=13), ask("x" * 17))
    assert fits["choices"][0]["finish_reason"] == "length"
    for error, counts in ((longer, ("20", "21", "8", "13")), (no_room, ("20", "276", "20", "256"))):
        assert error["error"]["code"] == "context_length_exceeded"
        assert all(count in error["error"]["message"].replace(":", "").split() for count in counts)
    assert record.sampled_tokens == 12


def test_a_reply_whose_length_is_not_named_ends_where_the_context_does() -> None:
    (reply,), record = using(Short("y" * 40), ask())
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (12, "length")
    assert record.truncated


def test_an_unknown_field_has_the_code_for_it(gateway: Gateway) -> None:
    gateway.begin("r", 1)
    assert gateway.answer("r", ask(magic=True))["error"]["code"] == "unknown_parameter"


def test_a_rollout_that_is_not_under_way_is_refused(gateway: Gateway) -> None:
    assert gateway.answer("r", ask())["error"]["type"] == "authentication_error"
    gateway.begin("r", 1)
    gateway.end("r")
    assert gateway.answer("r", ask())["error"]["type"] == "authentication_error"


def test_a_rollout_cannot_ask_without_end(gateway: Gateway) -> None:
    gateway.begin("r", 1)
    replies = [gateway.answer("r", ask(max_tokens=1)) for _ in range(MOST_CALLS + 1)]
    assert [reply.get("error", {}).get("type") for reply in replies[-2:]] == [None, "rate_limit_error"]


def test_an_engine_that_cannot_be_asked_makes_no_rollout_a_failure_of_its_agent() -> None:
    class Away(ScriptedEngine):
        asked = 0

        def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
            self.asked += 1
            raise ModelError("http://gpu:8000 does not answer")

    engine = Away()
    with pytest.raises(ModelError, match="does not answer"):
        using(engine, ask())
    assert engine.asked == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [(TrainingError("no more memory"), "no more memory"), (ValueError("key=sk-secret"), "ValueError")],
)
def test_an_engines_failure_is_told_without_its_secrets(error: Exception, message: str) -> None:
    class Broken(ScriptedEngine):
        def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
            raise error

    (reply,), record = using(Broken(), ask())
    assert reply["error"]["type"] == "server_error"
    assert message in reply["error"]["message"]
    assert "secret" not in reply["error"]["message"]
    assert (record.traces, record.sampled_tokens) == ((), 0)
    assert record.tokens == record.peak > 0  # nobody knows what it took, so it is charged at its most


# The same, whatever the order.


def test_a_rollouts_replies_follow_from_its_seed_and_what_it_asked() -> None:
    first, _ = using(ScriptedEngine(), ask("a"), ask("b"), ask("a"))
    second, _ = using(ScriptedEngine(), ask("b"), ask("a"), ask("a", seed=5, user="me", stream=True))
    texts, again = [text_of(each) for each in first], [text_of(each) for each in second]
    assert texts == [again[1], again[0], again[2]]
    assert len(set(texts)) == 3
    assert [each["id"] for each in first] == [second[1]["id"], second[0]["id"], second[2]["id"]]


def test_each_of_n_replies_has_a_seed_of_its_own() -> None:
    (reply,), record = using(ScriptedEngine(), ask(n=3), group=2)
    assert len({each["message"]["content"] for each in reply["choices"]}) == 3
    assert len(record.traces) == 3


def test_a_rollout_that_starts_again_is_as_if_it_never_had(gateway: Gateway) -> None:
    gateway.begin("r", 1)
    first = gateway.answer("r", ask())
    gateway.begin("r", 1)
    assert gateway.answer("r", ask()) == first
    assert len(gateway.finish("r").traces) == 1
    assert gateway.finish("r") == Record()


def test_training_samples_at_the_engines_own_temperature_and_from_all_tokens() -> None:
    for training, sampling in ((True, (None, 1.0)), (False, (0.25, 0.5))):
        engine = ScriptedEngine()
        using(engine, ask(temperature=0.25, top_p=0.5), training=training)
        assert (engine.batches[0][0].temperature, engine.batches[0][0].top_p) == sampling


def test_the_engine_is_told_how_large_a_group_will_be() -> None:
    engine = ScriptedEngine()
    using(engine, ask(), ask(n=2), group=8)
    assert [batch[0].group for batch in engine.batches] == [8, 16]


# Records.


def test_a_record_holds_the_exact_tokens() -> None:
    engine = ScriptedEngine("yes")
    _, record = using(engine, ask())
    (trace,) = record.traces
    prompt = list(engine.batches[0][0].prompt)
    assert list(trace.tokens) == [*prompt, *b"yes", END]
    assert list(trace.mask) == [0] * len(prompt) + [1] * 4
    assert list(trace.logprobs) == [0.0] * len(prompt) + [-0.5] * 4
    assert (record.prompt_tokens, record.sampled_tokens, record.truncated) == (len(prompt), 4, False)


def test_a_conversation_is_one_trace() -> None:
    engine = ScriptedEngine()
    first = ask("a")
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    messages = list(first["messages"])
    for content in ("b", "c", "d"):
        # As a client of the API sends a reply back: with every field that it has.
        message = {**gateway.answer("r", {"messages": messages})["choices"][0]["message"], "tool_calls": None}
        messages += [message, {"role": "user", "content": content}]
    record = gateway.finish("r")
    gateway.close()
    (trace,) = record.traces
    assert [token for token, entry in zip(trace.tokens, trace.mask, strict=True) if entry].count(END) == 3
    assert len(trace.tokens) == len(trace.mask) == len(trace.logprobs) == len(trace.values or ())
    assert [[each["content"] for each in turn["messages"]] for turn in record.turns] == [["a"], ["b"], ["c"]]


class Retokenising(ScriptedEngine):
    """Samples in bytes, two tokens of which its tokenizer would merge into one."""

    def __init__(self) -> None:
        super().__init__("aab")
        encode = self.tokens.encode

        def merging(text: str) -> list[int]:
            ids = encode(text)
            return [300, *ids[2:]] if text.startswith("aa") else ids

        self.tokens.encode = merging  # type: ignore[method-assign]
        decode = self.tokens.decode
        self.tokens.decode = lambda ids: "".join("aa" if each == 300 else decode([each]) for each in ids)  # type: ignore[method-assign]

    def _sampled(self, request: Request, seed: int) -> Sampled:
        tokens = [*b"aab", END]
        return Sampled(tokens, [1] * 4, [-0.5] * 4, [0.0] * 4, None, "aab", "stop")


def test_a_turn_that_comes_back_keeps_the_tokens_that_were_sampled() -> None:
    engine = Retokenising()
    again = [USER, {"role": "assistant", "content": "aab"}, USER]
    _, record = using(engine, ask(), {"messages": again})
    (trace,) = record.traces
    assert 300 not in trace.tokens
    assert sum(trace.mask) == 8


def test_a_turn_that_the_harness_changed_starts_a_new_trace() -> None:
    changed = [USER, {"role": "assistant", "content": "no!"}, USER]
    _, record = using(ScriptedEngine("yes"), ask(), {"messages": changed})
    assert [sum(trace.mask) for trace in record.traces] == [4, 4]


def test_a_tool_call_and_its_result_are_one_trace() -> None:
    text = '<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>'
    gateway = Gateway(ScriptedEngine(lambda prompt, seed: "2" if "result" in prompt else text))
    gateway.begin("r", 1)
    message = gateway.answer("r", ask(tools=[ADD]))["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "result: 2"}
    gateway.answer("r", {"messages": [USER, message, result], "tools": [ADD]})
    record = gateway.finish("r")
    gateway.close()
    # This tokenizer writes tool calls with other blanks than were sampled, so its text alone does not fit.
    assert [sum(trace.mask) for trace in record.traces] == [len(text) + 1, 2]


def test_prompts_that_have_nothing_to_do_with_each_other_are_traces_of_their_own() -> None:
    _, record = using(ScriptedEngine("yes"), ask("a"), ask("b"))
    assert len(record.traces) == 2


def test_what_a_constraint_allowed_is_kept_through_a_conversation() -> None:
    gateway = Gateway(ScriptedEngine())
    gateway.begin("r", 1)
    message = gateway.answer("r", ask(choices=["yes", "no"]))["choices"][0]["message"]
    gateway.answer("r", {"messages": [USER, message, USER], "max_tokens": 2})
    (trace,) = gateway.finish("r").traces
    gateway.close()
    assert trace.allowed is not None
    assert len(trace.allowed) == len(trace.tokens)
    assert [ids for ids in trace.allowed if ids] == [sorted(b"yn")]


def test_turns_are_cut_to_a_size_that_a_person_reads() -> None:
    _, record = using(ScriptedEngine("yes"), ask("x" * 20_000), *[ask(str(i)) for i in range(100)])
    assert len(json.dumps(record.turns)) < 20_000
    assert record.turns[0]["replies"] == [{"role": "assistant", "content": "yes"}]


# Batches.


class Gated(ScriptedEngine):
    """Tells when it has begun to sample, and goes on when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        self.begun.release()
        assert self.let.acquire(timeout=20)
        return super().sample(requests)


@pytest.fixture
def gated() -> Iterator[tuple[Gated, Gateway]]:
    engine = Gated()
    gateway = Gateway(engine)
    yield engine, gateway
    engine.let.release(100)
    gateway.close()


def test_what_waits_is_sampled_together(gated: tuple[Gated, Gateway]) -> None:
    engine, gateway = gated
    waiting: list[Future[Any]] = []
    for number in range(5):
        gateway.begin(str(number), number)
    for number in range(5):
        waiting.append(gateway.ask(str(number), ask()))
        if not number:
            assert engine.begun.acquire(timeout=20)
    engine.let.release(2)
    assert len({text_of(each.result(20)) for each in waiting}) == 5
    assert [len(batch) for batch in engine.batches] == [1, 4]


class Slow(ScriptedEngine):
    """A batch of it takes a while, as one of a real model does."""

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        time.sleep(0.8)
        return super().sample(requests)


def test_a_batch_waits_for_rollouts_that_will_soon_ask_a_share_of_the_time_that_it_takes() -> None:
    engine = Slow()
    gateway = Gateway(engine)
    for number in range(4):
        gateway.begin(str(number), number)
    gateway.begin("thinks", 9)
    assert gateway.answer("0", ask())
    started = time.monotonic()
    waiting = [gateway.ask("0", ask("again"))]
    for number in range(1, 4):
        time.sleep(0.02)  # past this the first of them was sampled alone
        waiting.append(gateway.ask(str(number), ask()))
    assert all(text_of(each.result(20)) for each in waiting)
    gateway.close()
    assert [len(batch) for batch in engine.batches] == [1, 4]
    assert time.monotonic() - started < 1.8  # one that thinks for long is not waited for


def test_one_request_that_the_engine_cannot_take_costs_itself_alone(gated: tuple[Gated, Gateway]) -> None:
    engine, gateway = gated
    sample = engine._sampled

    def picky(request: Request, seed: int) -> Sampled:
        if b"bad" in bytes(each for each in request.prompt if each < END):
            raise ValueError
        return sample(request, seed)

    engine._sampled = picky  # type: ignore[method-assign]
    for number in range(3):
        gateway.begin(str(number), number)
    first = gateway.ask("0", ask())
    assert engine.begun.acquire(timeout=20)
    bad, good = gateway.ask("1", ask("bad")), gateway.ask("2", ask("good"))
    engine.let.release(100)
    assert "error" in bad.result(20)
    assert "error" not in first.result(20)
    assert "error" not in good.result(20)


def test_calls_of_a_rollout_that_has_ended_are_not_sampled(gated: tuple[Gated, Gateway]) -> None:
    engine, gateway = gated
    gateway.begin("a", 1)
    gateway.begin("b", 1)
    gateway.ask("a", ask())
    assert engine.begun.acquire(timeout=20)
    waiting = gateway.ask("b", ask())
    gateway.end("b")
    engine.let.release(100)
    assert "ended" in waiting.result(20)["error"]["message"]
    assert len(engine.batches) == 1


def test_the_engine_can_be_had_alone(gated: tuple[Gated, Gateway]) -> None:
    engine, gateway = gated
    gateway.begin("a", 1)
    with gateway.exclusive() as own:
        assert own is engine
        waiting = gateway.ask("a", ask())
        own.optim_step()
        assert not engine.begun.acquire(blocking=False)
    engine.let.release()
    assert "error" not in waiting.result(20)
    with gateway.exclusive():
        pass


def test_closing_fails_the_calls_that_wait(gated: tuple[Gated, Gateway]) -> None:
    engine, gateway = gated
    gateway.begin("a", 1)
    gateway.begin("b", 1)
    first = gateway.ask("a", ask())
    assert engine.begun.acquire(timeout=20)
    second = gateway.ask("b", ask())
    closer = threading.Thread(target=gateway.close)
    closer.start()
    with gateway._changed:
        gateway._changed.wait_for(lambda: gateway._closed, 20)
    engine.let.release()
    closer.join()
    assert "error" not in first.result(20)
    assert "ending" in second.result(20)["error"]["message"]
    assert "ending" in gateway.answer("a", ask())["error"]["message"]


# An engine whose server goes on with others whenever a reply ends.


class Served(ScriptedEngine):
    """Answers each request when it is let, by its text; ``most`` is how many it had under way at once."""

    at_once = 2

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.under_way: list[str] = []
        self.let: set[str] = set()
        self.most = 0

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        (request,) = requests
        name = next(each for each in ("slow", "first", "second", "third") if each in self.tokens.decode(request.prompt))
        with self.changed:
            self.under_way.append(name)
            self.most = max(self.most, len(self.under_way))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: name in self.let, 20)
            self.under_way.remove(name)
            return super().sample(requests)

    def answers(self, *names: str) -> None:
        with self.changed:
            self.let.update(names)
            self.changed.notify_all()

    def has(self, *names: str) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: sorted(self.under_way) == sorted(names), 20)


@pytest.fixture
def served() -> Iterator[tuple[Served, Gateway]]:
    engine = Served()
    gateway = Gateway(engine)
    yield engine, gateway
    engine.answers("slow", "first", "second", "third")
    gateway.close()


def test_a_server_gets_the_next_call_as_soon_as_one_is_answered_whatever_others_take(
    served: tuple[Served, Gateway],
) -> None:
    engine, gateway = served
    waiting = {}
    for name in ("slow", "first", "second", "third"):
        gateway.begin(name, 0)
        waiting[name] = gateway.ask(name, ask(name))
    assert engine.has("slow", "first")
    engine.answers("first")
    assert text_of(waiting["first"].result(20))
    assert engine.has("slow", "second")
    engine.answers("second", "third")
    assert text_of(waiting["third"].result(20))
    assert not waiting["slow"].done()
    engine.answers("slow")
    assert text_of(waiting["slow"].result(20))
    assert engine.most == 2


def test_what_is_sampled_and_recorded_does_not_depend_on_which_call_was_answered_first(
    served: tuple[Served, Gateway],
) -> None:
    engine, gateway = served
    batched = Gateway(ScriptedEngine())
    rows = []
    for each in (gateway, batched):
        each.begin("one", 7)
        futures = [each.ask("one", ask("slow"))]
        if each is gateway:
            assert engine.has("slow")
        futures.append(each.ask("one", ask("first")))
        if each is gateway:
            engine.answers("first")
            futures[1].result(20)
            engine.answers("slow")
        rows.append(([text_of(reply.result(20)) for reply in futures], each.finish("one")))
    batched.close()
    assert rows[0] == rows[1]


def test_a_served_engine_is_had_alone_once_all_calls_are_answered(served: tuple[Served, Gateway]) -> None:
    engine, gateway = served
    gateway.begin("slow", 0)
    gateway.ask("slow", ask("slow"))
    assert engine.has("slow")
    alone = threading.Event()

    def claim() -> None:
        with gateway.exclusive():
            alone.set()

    claimer = threading.Thread(target=claim)
    claimer.start()
    with gateway._changed:
        gateway._changed.wait_for(lambda: gateway._claims, 20)
    gateway.begin("first", 0)
    later = gateway.ask("first", ask("first"))
    assert engine.has("slow")
    assert not alone.is_set()
    engine.answers("slow", "first")
    claimer.join(20)
    assert alone.is_set()
    assert text_of(later.result(20))


# What a rollout may use.


PROMPT = len(ScriptedEngine().tokens.render(ask()["messages"]))


def test_a_call_that_may_not_fit_is_refused_before_it_is_made_and_one_that_fits_to_the_last_token_is_not() -> None:
    engine = ScriptedEngine("yes")
    replies, record = using(engine, ask(max_tokens=9), ask(max_tokens=8), tokens=PROMPT + 8)
    assert replies[0]["error"]["code"] == "insufficient_quota"
    assert text_of(replies[1]) == "yes"
    assert len(engine.batches) == 1
    assert record.short
    assert record.tokens == PROMPT + len("yes") + 1


def test_what_a_reply_did_not_take_the_next_call_may() -> None:
    most = 2 * PROMPT + len("yes") + 1 + 8
    replies, record = using(ScriptedEngine("yes"), *[ask(max_tokens=8)] * 3, tokens=most)
    assert [text_of(each) for each in replies[:2]] == ["yes", "yes"]
    assert replies[2]["error"]["code"] == "insufficient_quota"
    assert record.tokens <= most
    assert record.peak == most


def test_what_an_earlier_start_of_a_rollout_took_stays_taken(gateway: Gateway) -> None:
    gateway.begin("r", 1, tokens=PROMPT + 8)
    gateway.answer("r", ask(max_tokens=8))
    gateway.begin("r", 1, tokens=PROMPT + 8)
    assert gateway.answer("r", ask(max_tokens=8))["error"]["code"] == "insufficient_quota"
    assert gateway.finish("r").tokens > PROMPT


def test_a_call_under_way_when_its_rollout_ends_is_charged_at_its_most() -> None:
    sampling, go = threading.Event(), threading.Event()

    class Slow(ScriptedEngine):
        def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
            sampling.set()
            assert go.wait(30)
            return super().sample(requests)

    gateway = Gateway(Slow())
    gateway.begin("r", 1)
    late = gateway.ask("r", ask(max_tokens=8))
    assert sampling.wait(30)
    assert gateway.finish("r").tokens == PROMPT + 8
    go.set()
    late.result(30)
    gateway.close()


def test_64_rollouts_that_ask_at_once_never_take_more_than_they_may() -> None:
    """Each asks eight times, two calls at a time, for more than it may have in all."""
    gateway, records = Gateway(ScriptedEngine()), {}
    allowed = 3 * (PROMPT + 16)

    def rollout(number: int) -> None:
        key = str(number)
        gateway.begin(key, number, tokens=allowed)
        for _ in range(4):
            for future in [gateway.ask(key, ask(max_tokens=16)) for _ in range(2)]:
                future.result(30)
        records[number] = gateway.finish(key)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(rollout, range(64)))
    gateway.close()
    assert len(records) == 64
    assert all(0 < each.tokens <= allowed and each.peak <= allowed and each.short for each in records.values())
    assert all(each.tokens == each.prompt_tokens + each.sampled_tokens for each in records.values())
