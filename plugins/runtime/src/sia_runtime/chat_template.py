"""A transformers tokenizer's chat template: tried at the start, and asked for a prompt so that text cannot forge turns.

Where a template takes several system messages only as one, they are joined; where it takes
none, or leaves them out, they stand at the beginning of the next message of the user.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sia_core.errors import UsageError

_LOG = logging.getLogger(__name__)

Message = Mapping[str, Any]

_MARK = "walrus"
_SYSTEM = {"role": "system", "content": _MARK}
_USER = {"role": "user", "content": "question"}
_SAID = {"role": "assistant", "content": "answer"}
_CALL = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": {}}}
_RESULT = {"role": "tool", "tool_call_id": "call00000", "name": "look", "content": "result"}
_TRIALS: Mapping[str, Sequence[Message]] = {
    "a conversation of several turns": [_USER, _SAID, _USER],
    "two messages of the user in a row": [_USER, _USER],
    "results of tools": [_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, _RESULT],
}


class ChatTemplate:
    """The template of a ``tokenizer`` of the policy ``name``; UsageError where there is none that asks a question."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name, self._drops_system = tokenizer, name, False
        if not tokenizer.chat_template:
            raise UsageError(
                f"{name} has no chat template, so it cannot be asked as a harness asks. Take the variant of the model "
                "that is trained to chat (often named -Instruct or -it), or put a chat_template.jinja into its folder"
            )
        if refusal := self._refusal([_USER]):
            raise UsageError(f"the chat template of {name} does not render a plain question: {refusal}")
        system = self._refusal([_SYSTEM, _USER])
        if not system and _MARK not in tokenizer.decode(self._rendered([_SYSTEM, _USER], ())):
            self._drops_system, system = True, "it leaves them out"
        if system:
            why = "goes to the beginning of the user's next message"
            _LOG.warning("the chat template of %s takes no system message (%s), so one %s", name, system, why)
        for what, messages in _TRIALS.items():
            if refusal := self._refusal(messages):
                told = "the chat template of %s refuses %s (%s): a harness that asks so gets an error"
                _LOG.warning(told, name, what, refusal)

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt that asks for the next turn; UsageError, in the template's own words, where it refuses these."""
        ways = [list(messages), list(_joined(messages)), list(_folded(messages))]
        first: Exception | None = None
        for way in ways[2:] if self._drops_system else ways:
            try:
                return self._rendered(way, tools)
            except Exception as error:  # a template is a program that anybody may have written
                first = first or error
        raise UsageError(f"the chat template of {self._name} refuses these messages: {_words(first)}")

    def _refusal(self, messages: Sequence[Message]) -> str:
        """The template's own words; empty where it takes these messages."""
        try:
            self._rendered(messages, ())
        except Exception as error:
            return _words(error)
        return ""

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        prompt = self._tokenizer.apply_chat_template(
            [self._harmless(each) for each in messages],
            tools=[dict(each) for each in tools] or None,
            add_generation_prompt=True,
            return_dict=False,
        )
        return list(prompt)

    def _harmless(self, message: Message) -> dict[str, Any]:
        """A message in which markup is text: a zero-width space breaks it, since templates know no other way."""
        content = message.get("content")
        if isinstance(content, str):
            for markup in {str(each) for each in self._tokenizer.added_tokens_decoder.values()}:
                content = content.replace(markup, f"{markup[:1]}\u200b{markup[1:]}")
        return {**message, "content": content}


def _words(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """With the system messages as one, at the beginning."""
    system = [str(each["content"]) for each in messages if each["role"] == "system"]
    if system:
        yield {"role": "system", "content": "\n\n".join(system)}
    yield from (each for each in messages if each["role"] != "system")


def _folded(messages: Sequence[Message]) -> Iterator[Message]:
    """With what the system says at the beginning of the user's next message, or as a last one of the user."""
    waiting: list[str] = []
    for each in messages:
        if each["role"] == "system":
            waiting.append(str(each["content"]))
        elif waiting and each["role"] == "user":
            yield {**each, "content": "\n\n".join([*waiting, str(each["content"])])}
            waiting = []
        else:
            yield each
    if waiting:
        yield {"role": "user", "content": "\n\n".join(waiting)}
