"""One conversation with a model: it uses tools until it has ended with what it was asked for, or is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sia_llm.folding import Folding, refused
from sia_llm.models import Ask, Message, Reply, ToolCall, results, told
from sia_llm.paid_calls import Calls
from sia_llm.toolbox import Arguments, Offered, Toolbox, offer

FAULTS = 3
"""Times that a conversation may be declined, cut short, left without a tool, or ended wrongly for one reason, each."""

NEAR_THE_END = 5

_Result = TypeVar("_Result")


class GivenUpOn(Exception):
    """The model did not come to an end that can be used; the message says why."""


class Declined(GivenUpOn):
    """The model, or its provider, declines to answer at all."""


@dataclass(frozen=True)
class Ending(Generic[_Result]):
    """The tool that ends a conversation: what it takes, and what that makes. ToolError hands it back."""

    name: str
    description: str
    takes: type[Arguments]
    make: Callable[[Any], _Result]


class Conversation(Generic[_Result]):
    """Asks as ``ask`` says, with its own tools, through calls that are recorded under ``purpose``."""

    def __init__(
        self, calls: Calls, purpose: str, ask: Ask, offered: list[Offered], ending: Ending[_Result], replies: int
    ) -> None:
        self._calls, self._purpose, self._replies = calls, purpose, replies
        self._ending = ending
        self._results: list[_Result] = []
        self._folding = Folding()
        end = offer(ending.name, ending.description, ending.takes, self._end)
        self._toolbox = Toolbox([*offered, self._folding.offered, end])
        self._ask = replace(ask, tools=self._toolbox.tools)
        self._faults: dict[str, int] = {}

    def run(self) -> _Result:
        """The ending's result; GivenUpOn where the model does not get there."""
        messages = list(self._ask.messages)
        for remaining in range(self._replies - 1, -1, -1):
            reply = self._calls.complete(self._purpose, replace(self._ask, messages=self._folding.sent(messages)))
            messages += self._answered(reply, remaining)
            if self._results:
                return self._results[0]
        raise GivenUpOn(f"{self._ask.model} did not call `{self._ending.name}` within {self._replies} replies")

    def _answered(self, reply: Reply, remaining: int) -> list[Message]:
        """The messages that come next."""
        if reply.ended == "refusal":
            self._fault("declined to answer", kind=Declined)
            return []  # and is asked the same again
        messages = [reply.message] if reply.text or reply.calls else []
        if reply.ended == "length":
            self._fault("was cut short by max_tokens")
            cut = f"Your reply was cut at {self._ask.max_tokens} tokens and nothing of it was done. Take smaller steps."
            return [*messages, results([(call, cut, True) for call in reply.calls]) if reply.calls else told(cut)]
        if not reply.calls:
            self._fault("called no tool")
            return [*messages, told(f"Use the tools, and end with `{self._ending.name}`.")]
        outcomes = [(call, *self._used(call)) for call in reply.calls]
        if remaining <= NEAR_THE_END:
            call, text, failed = outcomes[-1]
            outcomes[-1] = (
                call,
                f"{text}\n[you have {remaining} more replies; end with `{self._ending.name}`]",
                failed,
            )
        return [*messages, results(outcomes)]

    def _used(self, call: ToolCall) -> tuple[str, bool]:
        if self._results:
            return "not done: the conversation had ended", True
        folded = refused(call)
        text, failed = (folded, True) if folded else self._toolbox.use(call)
        if failed and call.name == self._ending.name:
            self._fault(f"ended wrongly: {text}")  # other reasons are other faults: it is learning
        return text, failed

    def _end(self, arguments: Arguments) -> str:
        self._results.append(self._ending.make(arguments))
        return "done"

    def _fault(self, what: str, kind: type[GivenUpOn] = GivenUpOn) -> None:
        self._faults[what] = self._faults.get(what, 0) + 1
        if self._faults[what] > FAULTS:
            raise kind(f"{self._ask.model} {what} ({self._faults[what]} times)")
