"""A policy that somebody else serves: asked by many rollouts at once, recorded, booked, and never a wrong result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import BudgetExhausted, ModelError
from sia_llm.hosted_policy import LIMITED, HostedGateway
from sia_llm.models import Ask, CallFailed, Logprob, Patience, Prices, Reply, ToolCall, Usage

COST = (100 * 3 + 10 * 15) / 1e6


class Engine:
    """Served by a function of the request."""

    can: frozenset[str] = frozenset()
    model = "any"
    patience = Patience(tries=2, first=0.0)
    name = "served"

    def __init__(self, answer: Callable[[Ask], Any], dollars: float | None = None) -> None:
        self._answer, self.dollars = answer, dollars
        self.provider = self
        self.asked: list[Ask] = []

    def complete(self, request: Ask) -> Reply:
        self.asked.append(request)
        answer = self._answer(request)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer, (), "end", Usage(100, 10))

    def prices(self, model: str) -> Prices | None:
        return Prices(3.0, 15.0, 0.3, 3.75)


def last(request: Ask) -> str:
    return str(request.messages[-1]["text"])


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}], **more}


def content(reply: Any) -> Any:
    return reply["choices"][0]["message"]["content"]


Begun = Callable[..., HostedGateway]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """Opens a gateway to an engine, with the rollout ``one`` under way."""
    with ExitStack() as opened:

        def gateway(engine: Engine, **about: Any) -> HostedGateway:
            result = HostedGateway(engine, tmp_path)
            opened.callback(result.close)
            result.begin("one", 0, **about)
            return result

        yield gateway


def test_64_calls_at_once_each_get_their_own_answer_and_the_budget_is_exact(tmp_path: Path) -> None:
    together = threading.Barrier(64)

    def answer(request: Ask) -> str:
        together.wait()  # none is answered before all are under way
        return f"answer to {last(request)}"

    engine = Engine(answer, dollars=10.0)
    gateway = HostedGateway(engine, tmp_path)
    futures = []
    for number in range(64):
        gateway.begin(f"rollout-{number}", 0)
        futures.append(gateway.ask(f"rollout-{number}", question(f"number {number}")))
    assert [content(each.result()) for each in futures] == [f"answer to number {number}" for number in range(64)]
    records = [gateway.finish(f"rollout-{number}") for number in range(64)]
    assert {(record.prompt_tokens, record.sampled_tokens) for record in records} == {(100, 10)}
    assert records[5].turns[0]["replies"] == [{"role": "assistant", "content": "answer to number 5"}]
    assert gateway.budget.spent["dollars"] == pytest.approx(64 * COST)
    assert gateway.budget.left("dollars") == pytest.approx(10.0 - 64 * COST)
    gateway.close()


def test_of_64_calls_at_once_only_as_many_are_made_as_the_dollars_cover_for_certain(tmp_path: Path) -> None:
    bound = Prices(3.0, 15.0, 0.3, 3.75).most(
        Ask("any", ("be brief",), ({"role": "user", "text": "n 00"},)).most_tokens(), 1000
    )
    decided, go = threading.Semaphore(0), threading.Event()

    def answer(request: Ask) -> str:
        decided.release()
        go.wait()
        return "so"

    engine = Engine(answer, dollars=10.5 * bound)
    gateway = HostedGateway(engine, tmp_path)
    futures = []
    for number in range(64):
        gateway.begin(f"{number}", 0)
        futures.append(gateway.ask(f"{number}", question(f"n {number:02}", max_tokens=1000)))
    for each in futures:
        each.add_done_callback(lambda _: decided.release())
    for _ in futures:
        decided.acquire()  # each call is either under way or refused by now
    go.set()
    errors = [each.result() for each in futures if "error" in each.result()]
    assert len(engine.asked) == 64 - len(errors) == 10
    stopped = 0
    for number in range(64):
        try:
            gateway.finish(f"{number}")
        except BudgetExhausted:
            stopped += 1
    assert stopped == len(errors)
    assert gateway.budget.spent["dollars"] == pytest.approx(10 * COST)
    gateway.close()


def test_a_rollout_that_is_begun_again_is_answered_as_before_also_by_another_process(tmp_path: Path) -> None:
    engine = Engine(lambda request: f"answer {len(engine.asked)}")

    def ask_twice() -> list[Any]:
        gateway = HostedGateway(engine, tmp_path)
        gateway.begin("one", 0)
        answers = [content(gateway.ask("one", question("same")).result()) for _ in range(2)]
        gateway.finish("one")
        spent.append(gateway.budget.spent["dollars"])
        gateway.close()
        return answers

    spent: list[float] = []
    assert ask_twice() == ask_twice() == ["answer 1", "answer 2"]
    assert len(engine.asked) == 2
    assert spent == [pytest.approx(2 * COST)] * 2


def test_conversations_with_tools_and_stops_and_several_replies_are_passed_on(begun: Begun) -> None:
    def answer(request: Ask) -> Any:
        if request.messages[-1]["role"] == "tools":
            return f"it gave {request.messages[-1]['results'][0]['text']} END and more"
        return Reply("", (ToolCall("id1", "read", {"path": "a"}),), "tools", Usage(100, 10))

    engine = Engine(answer)
    gateway = begun(engine)
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    first = gateway.ask("one", question("look", tools=tools)).result()
    message = first["choices"][0]["message"]
    assert (first["choices"][0]["finish_reason"], message["tool_calls"][0]["id"]) == ("tool_calls", "id1")
    tool_result = {"role": "tool", "tool_call_id": "id1", "content": "the content"}
    messages = [*question("look")["messages"], message, tool_result]
    second = gateway.ask("one", {"messages": messages, "tools": tools, "stop": ["END"], "n": 2}).result()
    assert [each["message"]["content"] for each in second["choices"]] == ["it gave the content "] * 2
    assert second["usage"] == {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
    assert engine.asked[0].system == ("be brief",)
    assert [(each.n, each.stop) for each in engine.asked[1:]] == [(2, ("END",)), (1, ("END",))]
    record = gateway.finish("one")
    assert [len(turn["messages"]) for turn in record.turns] == [2, 1]
    assert record.traces == ()
    gateway.close()


def test_several_replies_are_one_call_whose_prompt_is_counted_once(begun: Begun) -> None:
    def answer(request: Ask) -> Reply:
        others = tuple(Reply(f"reply {number}", (), "end", Usage()) for number in range(1, request.n))
        return Reply("reply 0", (), "end", Usage(100, 10 * request.n), others=others)

    engine = Engine(answer, dollars=10.0)
    gateway = begun(engine, tokens=100_000)
    body = question("x", n=3, max_tokens=50)
    reply = gateway.ask("one", body).result()
    assert [each["message"]["content"] for each in reply["choices"]] == ["reply 0", "reply 1", "reply 2"]
    assert reply["usage"] == {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
    assert gateway.budget.spent["dollars"] == pytest.approx((100 * 3 + 30 * 15) / 1e6)
    record = gateway.finish("one")
    assert (record.tokens, record.replies, record.peak) == (130, 3, engine.asked[0].most_tokens() + 150)
    gateway.begin("one", 0)
    assert gateway.ask("one", body).result() == reply
    assert len(engine.asked) == 1
    gateway.close()


def test_a_server_that_refuses_so_many_replies_is_asked_for_each(begun: Begun) -> None:
    """llama.cpp gives no more of them than it has slots."""
    refused = CallFailed("status 400: n: Value must be between 1 <= value <= 2", retry=False, refused=True)
    engine = Engine(lambda request: refused if request.n > 2 else f"for {request.n}")
    gateway = begun(engine)
    for text in ("x", "y"):
        reply = gateway.ask("one", question(text, n=3)).result()
        assert [each["message"]["content"] for each in reply["choices"]] == ["for 1"] * 3
    assert [each.n for each in engine.asked] == [3, 1, 1, 1, 1, 1, 1]
    assert gateway.finish("one").tokens == 6 * 110
    gateway.close()


def test_replies_for_which_the_tokens_do_not_suffice_are_refused_after_those_that_are_paid_for(begun: Begun) -> None:
    engine = Engine(lambda _: "so")
    most = Ask("any", ("be brief",), ({"role": "user", "text": "x"},), max_tokens=50, n=2).most_tokens() + 100
    gateway = begun(engine, tokens=most + 50)
    refused = gateway.ask("one", question("x", n=2, max_tokens=50)).result()
    assert refused["error"]["code"] == "insufficient_quota"
    record = gateway.finish("one")
    assert (record.tokens, record.short, len(engine.asked)) == (110, True, 1)
    gateway.close()


def test_log_probabilities_are_the_servers_and_end_where_the_text_does(begun: Begun) -> None:
    rows = tuple(Logprob(each, -0.5, tuple(each.encode())) for each in ("ü", "b", "END", "more"))
    engine = Engine(lambda _: Reply("übENDmore", (), "end", Usage(100, 10), logprobs=rows))
    gateway = begun(engine)
    (choice,) = gateway.ask("one", question("x", logprobs=True, stop="END")).result()["choices"]
    assert choice["message"]["content"] == "üb"
    assert choice["logprobs"]["content"] == [
        {"token": "ü", "logprob": -0.5, "bytes": [195, 188], "top_logprobs": []},
        {"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []},
    ]
    assert gateway.ask("one", question("x", logprobs=True, stop="END")).result()["choices"] == [choice]
    assert engine.asked[0].logprobs
    gateway.close()


def test_log_probabilities_that_the_server_does_not_give_are_refused(begun: Begun) -> None:
    gateway = begun(Engine(lambda _: "so"))
    error = gateway.ask("one", question("x", logprobs=True)).result()["error"]
    assert (error["param"], "server gives none" in error["message"]) == ("logprobs", True)
    assert gateway.finish("one").tokens == 110
    gateway.close()


def test_top_p_is_sent_where_the_harness_names_one(begun: Begun) -> None:
    engine = Engine(lambda _: "so")
    gateway = begun(engine)
    for more in ({}, {"top_p": 0.9}):
        gateway.ask("one", question("x", **more)).result()
    assert [each.top_p for each in engine.asked] == [1.0, 0.9]
    gateway.close()


@pytest.mark.parametrize("written", ['{"path": ', '"a text"', '{"path": NaN}', '{"a": 1, "a": 2}', '{"path": "ü"}'])
def test_the_arguments_of_a_tool_reach_the_harness_as_the_model_wrote_them(begun: Begun, written: str) -> None:
    engine = Engine(lambda _: Reply("", (ToolCall.written("id1", "read", written),), "tools", Usage(100, 10)))
    gateway = begun(engine)
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    message = gateway.ask("one", question("look", tools=tools)).result()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == written
    answer = {"role": "tool", "tool_call_id": "id1", "content": "malformed"}
    assert "error" not in gateway.ask("one", {"messages": [*question("look")["messages"], message, answer]}).result()
    gateway.finish("one")
    gateway.close()


def test_a_harness_that_sends_half_a_character_or_no_json_number_fails_alone_if_at_all(begun: Begun) -> None:
    gateway = begun(Engine(lambda _: "so \ud83d"))
    assert content(gateway.ask("one", question("half \ud83d")).result()) == "so \N{REPLACEMENT CHARACTER}"
    tool = {"type": "function", "function": {"name": "read", "parameters": {"maximum": float("inf"), "\ud83d": 1}}}
    gateway.ask("one", question("endless", tools=[tool])).result()
    gateway.finish("one")
    gateway.close()


@pytest.mark.parametrize(
    ("of_engine", "begin", "request_", "sent"),
    [
        ({}, {}, {}, None),
        ({}, {}, {"max_tokens": 70_000}, 70_000),
        ({"max_tokens": 9000}, {}, {}, 9000),
        ({"max_tokens": 9000}, {}, {"max_completion_tokens": 12}, 12),
        ({}, {"tokens": 50_000}, {}, LIMITED),
        ({"dollars": 1.0}, {}, {}, LIMITED),
        ({"dollars": 1.0, "max_tokens": 9000}, {}, {}, 9000),
    ],
)
def test_a_reply_is_as_long_as_the_harness_the_user_or_the_server_says(
    begun: Begun, of_engine: dict[str, Any], begin: dict[str, Any], request_: dict[str, Any], sent: int | None
) -> None:
    """A model that thinks first answers nothing within 256 tokens, and an agent that is right scores 0."""
    engine = Engine(lambda _: "so")
    vars(engine).update(of_engine)
    gateway = begun(engine, **begin)
    assert content(gateway.ask("one", question("x", **request_)).result()) == "so"
    assert engine.asked[0].max_tokens == sent
    gateway.finish("one")
    gateway.close()


def test_what_many_rollouts_meet_alike_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = HostedGateway(Engine(lambda _: Reply("so", (), "end", Usage())), tmp_path)
    for number in range(9):
        gateway.begin(f"{number}", 0)
        assert content(gateway.ask(f"{number}", question("x")).result()) == "so"
        assert gateway.finish(f"{number}").tokens > 0
    (notice,) = caplog.messages
    assert "does not count its tokens" in notice
    gateway.close()


def test_replies_that_a_limit_of_nobodys_cut_are_counted(begun: Begun) -> None:
    engine = Engine(lambda _: Reply("so", (), "length", Usage(100, 10)))
    gateway = begun(engine)
    gateway.ask("one", question("x")).result()
    gateway.ask("one", question("x", max_tokens=10)).result()
    record = gateway.finish("one")
    assert (record.replies, record.cut, record.truncated) == (2, 1, True)
    gateway.close()


def test_a_request_that_is_at_fault_is_the_harnesss_error_and_no_end_of_the_run(begun: Begun) -> None:
    gateway = begun(Engine(lambda _: CallFailed("status 400: too long", retry=False, refused=True)))
    assert "too long" in gateway.ask("one", question("x" * 10)).result()["error"]["message"]
    assert "error" in gateway.ask("one", {"messages": []}).result()
    assert "no rollout" in gateway.ask("nobody", question("x")).result()["error"]["message"]
    gateway.finish("one")
    gateway.close()


def test_a_server_that_is_down_ends_the_batch_and_makes_no_rollout_a_failure_of_its_agent(begun: Begun) -> None:
    gateway = begun(Engine(lambda _: CallFailed("status 503", retry=True)))
    assert gateway.ask("one", question("x")).result()["error"]["message"] == "the run is stopping"
    with pytest.raises(ModelError, match=r"after 2 tries: status 503.*sia resume"):
        gateway.finish("one")
    gateway.close()


def test_a_call_that_does_not_fit_into_its_rollouts_tokens_is_refused_and_nothing_is_paid(begun: Begun) -> None:
    engine = Engine(lambda _: "so")
    most = Ask("any", ("be brief",), ({"role": "user", "text": "x"},), max_tokens=1000).most_tokens() + 1000
    gateway = begun(engine, tokens=most + 50)
    assert content(gateway.ask("one", question("x", max_tokens=1000)).result()) == "so"
    refused = gateway.ask("one", question("x", max_tokens=1000)).result()
    assert "do not fit" in refused["error"]["message"]
    record = gateway.finish("one")
    assert (record.tokens, record.peak, record.short) == (110, most, True)
    assert len(engine.asked) == 1
    gateway.close()


def test_a_call_that_is_required_is_asked_for_and_checked(begun: Begun) -> None:
    two_calls = Reply("", (ToolCall("a", "add", {}), ToolCall("b", "add", {})), "tools", Usage(100, 10))
    engine = Engine(lambda request: two_calls if "carefully" in last(request) else "three")
    gateway = begun(engine)
    more = {"tools": [{"type": "function", "function": {"name": "add"}}], "tool_choice": "required"}
    reply = gateway.ask("one", question("carefully", parallel_tool_calls=False, **more)).result()
    assert [each["id"] for each in reply["choices"][0]["message"]["tool_calls"]] == ["a"]
    refused = gateway.ask("one", question("1 + 2", **more)).result()
    assert refused["error"]["code"] == "tool_use_failed"
    assert last(engine.asked[1]).endswith("Answer with a call of the tool add, and with nothing else.")
    gateway.close()


@pytest.mark.parametrize(
    "words",
    [
        "ContextWindowExceededError: litellm.BadRequestError",
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        "prompt is too long: 250000 tokens > 200000 maximum",
        "the request exceeds the available context size, try increasing it",
        "Input is too long for requested model.",
    ],
)
def test_a_conversation_that_is_too_long_for_the_provider_is_told_by_the_apis_code(begun: Begun, words: str) -> None:
    failure = CallFailed(f"status 400: {words}", retry=False, refused=True)
    gateway = begun(Engine(lambda _: failure))
    error = gateway.ask("one", question("x")).result()["error"]
    assert (error["code"], words in error["message"]) == ("context_length_exceeded", True)
