"""Calls of language models: recorded and replayed, retried with patience, booked to the cent, stopped at the limit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import BudgetExhausted, ModelError, UsageError, excerpt
from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_llm.models import Ask, CallFailed, Patience, Prices, Reply, ToolCall, Usage, asked_wait, told, without_key
from sia_llm.paid_calls import Calls

PRICES = Prices(input=3.0, output=15.0, cache_read=0.3, cache_write=3.75)
LIMITED = CallFailed("429 too many requests", retry=True, after=7)
CUT = CallFailed("the stream was cut", retry=True, paid=True)
USAGE = Usage(input=100, output=10)


class Scripted:
    """A provider that says, raises or does what its script holds."""

    name = "scripted"

    def __init__(self, *script: Any, prices: Prices | None = PRICES) -> None:
        self._script, self._prices = iter(script), prices
        self.asked: list[Ask] = []

    def complete(self, request: Ask) -> Reply:
        self.asked.append(request)
        part = next(self._script)
        if isinstance(part, BaseException):
            raise part
        if isinstance(part, Reply):
            return part
        return Reply(part() if callable(part) else part, (), "end", USAGE, {"said": "raw"})

    def prices(self, model: str) -> Prices | None:
        return self._prices


class Killed(BaseException):
    """Stands for the end of the process."""


def ask(text: str = "hello", *, limit: int = 1000) -> Ask:
    return Ask("a-model", ("be brief",), (told(text),), max_tokens=limit)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "run") as ledger:
        yield ledger


class World:
    """Calls on a ledger, with what they said and slept."""

    def __init__(self, ledger: Ledger, *script: Any, dollars: float | None = 1.0, **more: Any) -> None:
        self.provider = Scripted(*script, **more)
        self.budget = Budget(Limit({} if dollars is None else {"dollars": dollars}))
        self.notices: list[str] = []
        self.slept: list[float] = []
        patience = Patience(tries=3)
        self.calls = Calls(
            self.provider, ledger, self.budget, self.notices.append, patience=patience, sleep=self.slept.append
        )

    @property
    def spent(self) -> float:
        return self.budget.spent["dollars"]


def test_a_recorded_reply_is_used_and_not_paid_for_again(ledger: Ledger) -> None:
    first = World(ledger, "one", "two")
    replies = [first.calls.complete("draft", ask()) for _ in range(2)]
    again = World(ledger)
    assert [again.calls.complete("draft", ask()) for _ in range(2)] == replies
    assert [reply.text for reply in replies] == ["one", "two"]
    assert replies[0].raw == {"said": "raw"}
    assert again.provider.asked == []
    assert again.spent == first.spent == pytest.approx(2 * (100 * 3 + 10 * 15) / 1e6)


def test_another_purpose_or_request_is_another_call(ledger: Ledger) -> None:
    world = World(ledger, "one", "two", "three")
    texts = [world.calls.complete(*each).text for each in (("a", ask()), ("b", ask()), ("a", ask("other")))]
    assert texts == ["one", "two", "three"]


def test_the_intent_is_recorded_before_anything_is_sent_and_the_reply_before_it_is_used(ledger: Ledger) -> None:
    def keys() -> str:
        return " ".join(key.rpartition("/0/")[2] for key, _, _ in ledger.events("calls/"))

    world = World(ledger, keys)
    assert world.calls.complete("draft", ask()).text == "intent/0"
    assert keys() == "intent/0 reply"


def test_a_call_that_a_kill_left_without_a_reply_is_said_booked_at_its_bound_and_made_again(ledger: Ledger) -> None:
    first = World(ledger, Killed())
    with pytest.raises(Killed):
        first.calls.complete("draft", ask())
    again = World(ledger, "one")
    assert again.calls.complete("draft", ask()).text == "one"
    assert "paid for twice" in again.notices[0]
    bound = PRICES.most(ask().most_tokens(), 1000)
    assert again.spent == pytest.approx(bound + PRICES.cost(USAGE))
    third = World(ledger)
    third.calls.complete("draft", ask())
    assert third.spent == again.spent
    assert third.notices == []


def test_what_may_pass_is_tried_again_after_the_servers_wait_or_ones_own(ledger: Ledger) -> None:
    world = World(ledger, LIMITED, CallFailed("529 overloaded", retry=True), "one")
    assert world.calls.complete("draft", ask()).text == "one"
    assert world.slept == [7.0, 4.0]
    assert world.spent == PRICES.cost(USAGE)
    assert "429" in world.notices[0]


def test_what_cannot_pass_is_not_tried_again_and_the_error_says_how_to_go_on(ledger: Ledger) -> None:
    world = World(ledger, CallFailed("401 bad key", retry=False))
    with pytest.raises(ModelError, match=r"401 bad key.*sia resume"):
        world.calls.complete("draft", ask())
    assert world.slept == []
    again = World(ledger, "one")
    assert again.calls.complete("draft", ask()).text == "one"
    assert again.spent == PRICES.cost(USAGE)


def test_patience_ends_and_a_resumed_run_has_it_anew(ledger: Ledger) -> None:
    world = World(ledger, LIMITED, LIMITED, LIMITED)
    with pytest.raises(ModelError, match="after 3 tries"):
        world.calls.complete("draft", ask())
    assert World(ledger, LIMITED, "one").calls.complete("draft", ask()).text == "one"


def test_a_reply_that_was_cut_may_have_been_paid_for_and_is_booked_so_once(ledger: Ledger) -> None:
    world = World(ledger, CUT, "one")
    world.calls.complete("draft", ask())
    bound = PRICES.most(ask().most_tokens(), 1000)
    assert world.spent == pytest.approx(bound + PRICES.cost(USAGE))
    again = World(ledger)
    again.calls.complete("draft", ask())
    assert again.spent == world.spent


def test_a_call_that_does_not_fit_into_the_dollars_is_not_made(ledger: Ledger) -> None:
    bound = PRICES.most(ask().most_tokens(), 1000)
    cost = PRICES.cost(USAGE)
    world = World(ledger, "one", "two", dollars=bound + cost + 1e-9)
    world.calls.complete("first", ask())
    world.calls.complete("second", ask())
    with pytest.raises(BudgetExhausted, match="dollars do not fit"):
        world.calls.complete("third", ask())
    assert len(world.provider.asked) == 2
    assert world.spent == pytest.approx(2 * cost)
    assert world.budget.left("dollars") == pytest.approx(bound - cost, abs=1e-8)


def test_cached_tokens_have_their_own_price(ledger: Ledger) -> None:
    usage = Usage(input=10, output=5, cache_read=400, cache_write=100)
    world = World(ledger, Reply("one", (), "end", usage))
    world.calls.complete("draft", ask())
    assert world.spent == pytest.approx((10 * 3 + 5 * 15 + 400 * 0.3 + 100 * 3.75) / 1e6)


@pytest.mark.parametrize(
    "usage", [Usage(input=-5, output=3), Usage(input=10**9, output=1), Usage(input=10, output=10**9)]
)
def test_usage_figures_that_cannot_be_right_are_booked_at_the_bound_and_said(ledger: Ledger, usage: Usage) -> None:
    world = World(ledger, Reply("one", (), "end", usage))
    reply = world.calls.complete("draft", ask())
    assert reply.text == "one"
    assert 0 < reply.usage.read < 100
    assert 0 < reply.usage.output < 100
    assert world.spent == PRICES.most(ask().most_tokens(), 1000)
    assert "cannot be right" in world.notices[0]
    assert len(world.notices[0]) < 1000


@pytest.mark.parametrize("usage", [Usage(), Usage(input=100), Usage(output=10)])
def test_tokens_that_a_server_does_not_count_are_estimated_booked_at_the_bound_and_said(
    ledger: Ledger, usage: Usage
) -> None:
    world = World(ledger, Reply("a reply of six words, perhaps", (), "end", usage))
    reply = world.calls.complete("draft", ask())
    assert 20 < reply.usage.input <= 100
    assert 10 <= reply.usage.output < 40
    assert world.spent == PRICES.most(ask().most_tokens(), 1000)
    assert "does not count its tokens: they are estimated" in world.notices[0]
    assert World(ledger).calls.complete("draft", ask()) == reply


def test_what_a_reply_holds_that_is_no_text_or_no_json_is_mended_before_it_is_recorded(ledger: Ledger) -> None:
    call = ToolCall("t\0", "read\ud83d", {"path": "\ude00", "\ud83d\ude00": ["\ud83d"]})
    world = World(
        ledger, Reply("look \ud83d", (call,), "tools", USAGE, [{"n": float("nan"), "big": 10**5000, "t": "\ud83d"}])
    )
    reply = world.calls.complete("draft", ask())
    assert reply.text == "look \N{REPLACEMENT CHARACTER}"
    assert reply.calls == (ToolCall("t\ufffd", "read\ufffd", {"path": "\ufffd", "\N{GRINNING FACE}": ["\ufffd"]}),)
    assert reply.raw == [{"n": None, "big": None, "t": "\ufffd"}]
    again = World(ledger)
    assert again.calls.complete("draft", ask()) == reply
    assert again.provider.asked == []


def test_a_reply_that_is_nested_without_end_is_recorded_as_far_as_it_can_be(ledger: Ledger) -> None:
    raw: Any = []
    for _ in range(100_000):
        raw = [raw]
    assert World(ledger, Reply("so", (), "end", USAGE, raw)).calls.complete("draft", ask()).text == "so"
    assert World(ledger).calls.complete("draft", ask()).text == "so"


def test_half_a_character_that_an_earlier_version_recorded_ends_no_run(ledger: Ledger) -> None:
    """The reply was paid for; with the half in it no request could be made that went on from it."""
    spoilt = {**Reply("look \ud83d", (), "end", USAGE, {"t": "\ud83d"}).to_json()}
    row = {"reply": spoilt, "digest": ask().digest, "dollars": 0.5, "wrong": ""}
    ledger.record(f"calls/draft/{ask().digest[:16]}/0/reply", row)
    world = World(ledger, "and on")
    first = world.calls.complete("draft", ask())
    later = Ask("a-model", ("be brief",), (told("hello"), first.message, told("go on")), max_tokens=1000)
    assert world.calls.complete("draft", later).text == "and on"
    (sent,) = world.provider.asked
    assert sent.messages[1] == {**first.message, "text": "look \ufffd", "raw": {"t": "\ufffd"}}


def test_what_programs_wrote_into_a_request_is_mended_before_it_is_sent(ledger: Ledger) -> None:
    world = World(ledger, "one")
    assert world.calls.complete("draft", ask("an agent printed \ud83d and \0")).text == "one"
    assert world.provider.asked[0].messages[0]["text"] == "an agent printed \ufffd and \ufffd"


def test_an_error_of_a_server_is_told_in_characters_that_can_be_shown(ledger: Ledger) -> None:
    world = World(ledger, CallFailed("status 503: \x1b[31mred\ud83d\0", retry=True), "one")
    world.calls.complete("draft", ask())
    assert "503:  [31mred\ufffd\ufffd" in world.notices[0]


def test_a_conversation_that_goes_on_is_bounded_by_what_its_beginning_was_counted_at() -> None:
    begun = ask("x" * 40_000)
    later = Ask(begun.model, begun.system, (*begun.messages, told("y" * 100)), max_tokens=1000)
    assert begun.most_tokens() > 40_000
    assert 10_100 < later.most_tokens(begun, 10_000) < 10_200
    other = Ask(begun.model, ("another",), later.messages, max_tokens=1000)
    assert other.most_tokens(begun, 10_000) > 40_000


def test_a_model_without_a_price_is_free_to_use_where_dollars_are_not_limited(ledger: Ledger) -> None:
    world = World(ledger, "one", dollars=None, prices=None)
    assert world.calls.complete("draft", ask()).text == "one"
    with pytest.raises(UsageError, match="input_price"):
        World(ledger, "one", prices=None).calls.complete("draft", ask())


@pytest.fixture
def heeded() -> Iterator[None]:
    """A process that heeds its signals, also where whoever started the tests had it ignore some (`make test &`)."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def _interrupt(times: int, number: signal.Signals = signal.SIGINT) -> Callable[[], str]:
    def reply() -> str:
        for _ in range(times):
            os.kill(os.getpid(), number)
        return "one"

    return reply


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_once_keeps_the_reply_that_is_under_way(ledger: Ledger, number: signal.Signals) -> None:
    world = World(ledger, _interrupt(1, number))
    with pytest.raises(KeyboardInterrupt):
        world.calls.complete("draft", ask())
    assert "once the model has answered" in world.notices[0]
    again = World(ledger)
    assert again.calls.complete("draft", ask()).text == "one"
    assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_twice_stops_at_once_and_the_call_is_made_again(ledger: Ledger) -> None:
    world = World(ledger, _interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        world.calls.complete("draft", ask())
    again = World(ledger, "two")
    assert again.calls.complete("draft", ask()).text == "two"
    assert "paid for twice" in again.notices[0]


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it_while_a_model_answers(ledger: Ledger) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        world = World(ledger, _interrupt(2))
        assert world.calls.complete("draft", ask()).text == "one"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7s"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Sun, 06 Nov 1994 08:51:07 GMT"}, 90.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:51:07 GMT"}, 90.0),
        ({"retry-after": "Sun Nov  6 08:51:07 1994"}, 90.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        *[({"retry-after": each}, None) for each in ("", "soon", "-1", "nan", "inf", "1e999", "32 Foo 99999999 99:99")],
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, now=lambda: 784111777.0) == seconds


def test_no_server_makes_a_run_wait_for_longer_than_ten_minutes() -> None:
    assert Patience().wait(1, asked_wait({"retry-after": "1e300"})) == 600.0


@pytest.mark.parametrize("cut", range(580, 601, 4))
def test_no_part_of_a_key_is_told_where_a_servers_words_were_cut_in_the_middle_of_it(cut: int) -> None:
    key = "sk-0123456789abcdefghij"
    text = without_key(excerpt(f"{'x' * cut}{key} and more"), key)
    assert "0123" not in text
    assert "more characters" in text
