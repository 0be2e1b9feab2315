"""One rollout's calls of the policy as exact tokens: the prompts of its next turns, and its traces.

A conversation that goes on is one trace: where a request repeats what was sampled
before, its prompt holds the very tokens that were sampled, not the same text
tokenised anew. Where a tokenizer's rendering does not allow that, a new trace starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeVar

from sia_core.learning import Sampled, Tokens, Trace
from sia_runtime.worker.chat import Chat
from sia_runtime.worker.completions import Message

SHOWN_TURNS = 32
_SHOWN_CHARACTERS = 2000

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Record:
    """The record of one rollout's calls of the policy.

    ``truncated`` says that a limit of length cut one short. ``turns`` are for a person
    to read, as JSON, cut to size: of each call the messages that its conversation had
    not held before, and what was replied. ``tokens`` is what it is charged: all that it
    read and sampled, whatever became of it, and the most that a call without an answer may
    have taken. ``peak`` is the share with which none of its calls would have been refused,
    and ``short`` says that one was. Of its ``replies``, ``cut`` ended at a length that
    the harness had not named.
    """

    traces: Sequence[Trace] = ()
    truncated: bool = False
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    tokens: int = 0
    peak: int = 0
    short: bool = False
    turns: Sequence[Mapping[str, Any]] = ()
    replies: int = 0
    cut: int = 0


@dataclass(frozen=True)
class _SampledTurn:
    """A sampled turn: its prompt as text renders it and as it was asked with, and the messages up to and with it."""

    rendered: list[int]
    prompt: list[int]
    sampled: Sampled
    messages: int


@dataclass
class Book:
    """The calls of one rollout, in the order of their places, whichever was answered first."""

    _calls: list[tuple[int, list[int], list[Sampled]]] = field(default_factory=list)
    _samples: dict[bytes, _SampledTurn] = field(default_factory=dict)
    _turns: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    _cut: int = 0

    def prompt(self, chat: Chat, rendered: list[int], tokens: Tokens) -> list[int]:
        """The prompt to ask with, where ``rendered`` is the conversation as text gives it."""
        last = self._last(chat)
        if last is None:
            return rendered
        start, text = len(last.rendered), last.sampled.text
        end = next((at for at in range(start, len(rendered)) if rendered[at] in tokens.stops), None)
        if end is None or rendered[:start] != last.rendered or tokens.decode(last.sampled.tokens) != text:
            return rendered
        # A template may leave out a turn's tool calls; more than the turn itself must not be replaced.
        if tokens.decode(rendered[start:end]).strip() not in ("", text.strip()):
            return rendered
        ended = last.sampled.tokens[-1] in tokens.stops
        return [*last.prompt, *last.sampled.tokens, *rendered[end + ended :]]

    def add(
        self,
        chat: Chat,
        rendered: list[int],
        prompt: list[int],
        continuations: Sequence[tuple[Message, Sampled]],
        place: int,
    ) -> None:
        """Note an answered call, which was asked as the one at that place."""
        before = self._last(chat)
        new = chat.messages[before.messages if before else 0 :]
        self._calls.append((place, prompt, [sampled for _, sampled in continuations]))
        self._cut += sum(chat.may_shrink and sampled.finish == "length" for _, sampled in continuations)
        for message, sampled in continuations:
            self._samples.setdefault(
                chat.after(message), _SampledTurn(rendered, prompt, sampled, len(chat.messages) + 1)
            )
        if len(self._turns) < SHOWN_TURNS:
            self._turns.append((place, turn(new, [message for message, _ in continuations])))

    def record(self) -> Record:
        """All of it."""
        calls = [(prompt, some) for _, prompt, some in sorted(self._calls, key=_place)]
        sampled = [each for _, some in calls for each in some]
        return Record(
            traces=tuple(_traces(calls)),
            truncated=any(each.finish == "length" for each in sampled),
            prompt_tokens=sum(len(prompt) for prompt, _ in calls),
            sampled_tokens=sum(len(each.tokens) for each in sampled),
            turns=tuple(each for _, each in sorted(self._turns, key=_place)),
            replies=len(sampled),
            cut=self._cut,
        )

    def _last(self, chat: Chat) -> _SampledTurn | None:
        """The latest sampled turn that a conversation repeats."""
        if not self._samples:
            return None
        return next((self._samples[each] for each in reversed(chat.digests) if each in self._samples), None)


_place = itemgetter(0)


def _traces(calls: Sequence[tuple[list[int], list[Sampled]]]) -> list[Trace]:
    """Each continuation at the end of the longest trace that its prompt begins with, or as a separate trace.

    Several continuations of one call are traces of their own.
    """
    traces: list[Trace] = []
    for prompt, continuations in calls:
        if len(continuations) == 1:
            begun = [at for at, trace in enumerate(traces) if _begins(prompt, trace.tokens)]
            if begun:
                at = max(begun, key=lambda each: len(traces[each].tokens))
                traces[at] = _joined(traces[at], continuations[0].trace(prompt))
                continue
        traces += [sampled.trace(prompt) for sampled in continuations]
    return traces


def _begins(prompt: list[int], tokens: Sequence[int]) -> bool:
    return len(tokens) <= len(prompt) and prompt[len(tokens) - 1] == tokens[-1] and prompt[: len(tokens)] == tokens


def _joined(first: Trace, second: Trace) -> Trace:
    """``second``, which begins with the tokens of ``first``, with what is known of them."""
    length = len(first.tokens)
    return Trace(
        tokens=second.tokens,
        mask=[*first.mask, *second.mask[length:]],
        logprobs=[*first.logprobs, *second.logprobs[length:]],
        values=None if first.values is None or second.values is None else [*first.values, *second.values[length:]],
        allowed=_joined_rows(first.allowed, second.allowed, length, len(second.tokens)),
        bias=_joined_rows(first.bias, second.bias, length, len(second.tokens)),
    )


def _joined_rows(
    first: Sequence[_Row | None] | None, second: Sequence[_Row | None] | None, length: int, total: int
) -> list[_Row | None] | None:
    if first is None and second is None:
        return None
    return [*(first or [None] * length), *(second[length:] if second else [None] * (total - length))]


def turn(new: Sequence[Message], replies: Sequence[Message]) -> dict[str, Any]:
    """A call for a person to read: what its conversation had not held before, and what was replied."""
    return {"messages": [_shown(each) for each in new[-SHOWN_TURNS:]], "replies": [_shown(each) for each in replies]}


def _shown(message: Message) -> dict[str, str]:
    calls = message.get("tool_calls")
    text = message["content"] + (json.dumps(calls, ensure_ascii=False) if calls else "")
    return {"role": message["role"], "content": _cut(text)}


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} [cut: {len(text)} characters]"
