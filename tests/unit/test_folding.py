"""A long conversation stays short: what was used is sent as a line, can be read again, and lets caches hit."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

from sia_core.run.ledger import canonical
from sia_llm import folding
from sia_llm.conversation import Conversation, Ending
from sia_llm.folding import Folding, refused
from sia_llm.models import Ask, Message, Reply, ToolCall, Usage, results, told
from sia_llm.quoting import fenced
from sia_llm.toolbox import Arguments, Toolbox, offer

LAWBENCH = Path(__file__).parents[1] / "data" / "recorded" / "lawbench.jsonl.gz"
LONG = "long " * 2000


class Anything(Arguments):
    model_config = ConfigDict(extra="allow")


class Replies:
    """Stands for paid calls: plays replies, and keeps what was asked."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies
        self.asked: list[Ask] = []

    def complete(self, purpose: str, request: Ask) -> Reply:
        self.asked.append(request)
        return self._replies[len(self.asked) - 1]


def recorded() -> list[dict[str, Any]]:
    return [json.loads(row) for row in gzip.decompress(LAWBENCH.read_bytes()).splitlines()]


@cache
def replayed(full: int = folding.FULL) -> list[Ask]:
    """The requests of the recorded conversation, as they are sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "FULL", full)
        return _replayed()


def _replayed() -> list[Ask]:
    rows = recorded()
    first = rows[0]["asked"]
    texts = [result["text"] for row in rows[1:] for result in row["asked"]["results"]]
    schemas = [name for name in first["tools"] if name not in ("decide", "read_result")]
    tools = [offer(name, "A tool. " * 20, Anything, lambda _: texts.pop(0)) for name in schemas]
    calls = Replies([Reply.from_json(row["reply"]) for row in rows])
    ask = Ask("any", tuple(first["system"]), (told(first["text"]),))
    ending = Ending("decide", "It ends.", Anything, lambda _: "decided")
    assert Conversation(calls, "decide", ask, tools, ending, 60).run() == "decided"  # type: ignore[arg-type]
    return calls.asked


def length(asked: list[Ask]) -> int:
    """Bytes, as tokens are estimated by them: a Chinese character is about one token, and so are three letters."""
    return sum(len(canonical(asdict(each)).encode()) for each in asked)


def beginning(before: Ask, after: Ask) -> int:
    """The bytes of a request that began the one before as well, and so may be cached."""
    pairs = zip(after.messages, before.messages, strict=False)
    same = next((place for place, (one, other) in enumerate(pairs) if one != other), len(before.messages))
    return length([replace(after, messages=after.messages[:same])])


def exchange(number: int, gave: str, **arguments: Any) -> list[Message]:
    """A reply that calls a tool, and what the tool gave."""
    call = ToolCall(f"call_{number}", "read", arguments)
    return [Reply("", (call,), "tools", Usage()).message, results([(call, gave, False)])]


def test_a_real_conversation_about_lawbench_sends_a_third_of_what_it_would_in_full() -> None:
    short, full = replayed(), replayed(10**9)
    assert len(short) == len(full) == 45
    assert length(short) <= length(full) / 3


def test_most_of_a_request_began_the_one_before_so_that_caches_hit() -> None:
    asked = replayed()
    again = sum(beginning(before, after) for before, after in pairwise(asked))
    assert again > 0.8 * length(asked)


def test_texts_are_folded_in_batches_and_a_folded_one_never_changes_again() -> None:
    requests = replayed()
    batches = [
        after for before, after in pairwise(requests) if after.messages[: len(before.messages)] != before.messages
    ]
    assert 0 < len(batches) < len(requests) / 4
    for before, after in pairwise(requests):
        last = max((place for place, each in enumerate(before.messages) if each.get("folded")), default=-1)
        assert after.messages[: last + 1] == before.messages[: last + 1]


def test_the_last_exchange_is_sent_in_full_however_long() -> None:
    sent = Folding().sent([told("first"), *exchange(1, LONG), *exchange(2, LONG * 10)])
    assert sent[4]["results"][0]["text"] == LONG * 10
    assert "[folded: 10,000 characters" in sent[2]["results"][0]["text"]


def test_a_folded_result_says_how_it_is_read_again_and_keeps_what_its_tool_said_first() -> None:
    fold = Folding()
    text = f"It runs.\n{fenced(LONG, 'what the check did', 20_000)}"
    sent = fold.sent([told("first"), *exchange(1, "short"), *exchange(2, text), *exchange(3, LONG * 10)])
    line = sent[4]["results"][0]["text"]
    assert line.startswith("It runs. [folded: ")
    assert "`read_result` with number 2" in line
    assert Toolbox([fold.offered]).use(ToolCall("1", "read_result", {"number": 2})) == (text, False)
    assert sent[2]["results"][0]["text"] == "short"


def test_a_result_that_was_not_folded_is_not_read_again() -> None:
    text, failed = Toolbox([Folding().offered]).use(ToolCall("1", "read_result", {"number": 1}))
    assert failed
    assert "stand above in full" in text


def test_long_arguments_are_folded_and_a_call_that_repeats_their_line_is_not_done() -> None:
    sent = Folding().sent([told("first"), *exchange(1, "done", path="a", text=LONG), *exchange(2, LONG * 10)])
    arguments = sent[1]["calls"][0]["arguments"]
    assert arguments == {"path": "a", "text": "[folded: 10,000 characters that you wrote]"}
    assert "write it in full" in refused(ToolCall("3", "write_file", arguments))
    assert refused(ToolCall("3", "write_file", {"path": "a", "text": LONG})) == ""


def test_a_folded_conversation_is_bounded_by_what_was_counted_and_by_what_is_new() -> None:
    messages = [told("first"), *exchange(1, LONG[:4000]), *exchange(2, LONG)]
    fold = Folding()
    before = Ask("any", (), fold.sent(messages))
    after = Ask("any", (), fold.sent([*messages, *exchange(3, LONG * 3)]))
    assert after.messages[2] != before.messages[2]
    new = len(LONG * 3)
    assert new < after.most_tokens(before, 500) - 500 < new + 2500
