"""A transformers tokenizer's chat template: tried at the start, and asked for a prompt so that text cannot forge turns.

Where a template takes several system messages only as one, they are joined; where it takes
none, or leaves them out, they stand at the beginning of the next message of the user. Where it
leaves out tools, they and their calls are written into the text, in the form in which a reply's
calls are read.
"""

from __future__ import annotations

import json
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
_TOOL = {"type": "function", "function": {"name": _MARK, "parameters": {"type": "object", "properties": {}}}}
_OFFER = """You can call these tools, one JSON schema a line:
<tools>
{tools}
</tools>
To call one, write a JSON object with its name and arguments between tags, like this:
<tool_call>
{{"name": "the tool's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""
_TRIALS: Mapping[str, Sequence[Message]] = {
    "a conversation of several turns": [_USER, _SAID, _USER],
    "two messages of the user in a row": [_USER, _USER],
    "results of tools": [_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, _RESULT],
}


class ChatTemplate:
    """The template of a ``tokenizer`` of the policy ``name``; UsageError where there is none that asks a question."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._drops_system = self._writes_tools = False
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
        self._writes_tools = not self._shows_tools()
        for what, messages in _TRIALS.items():
            if refusal := self._refusal(messages):
                warning = "the chat template of %s refuses %s (%s): a harness that asks so gets an error"
                _LOG.warning(warning, name, what, refusal)

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt that asks for the next turn; UsageError, in the template's own words, where it refuses these."""
        if self._writes_tools:
            messages, tools = _written(messages, tools), ()
        ways = [list(messages), list(_joined(messages)), list(_folded(messages))]
        first: Exception | None = None
        for way in ways[2:] if self._drops_system else ways:
            try:
                return self._rendered(way, tools)
            except Exception as error:  # a template is a program that anybody may have written
                first = first or error
        raise UsageError(f"the chat template of {self._name} refuses these messages: {_words(first)}")

    def _shows_tools(self) -> bool:
        try:
            return _MARK in self._tokenizer.decode(self._rendered([_USER], [_TOOL]))
        except Exception:  # a template is a program that anybody may have written
            return False

    def _refusal(self, messages: Sequence[Message]) -> str:
        """The template's own words; empty where it takes these messages."""
        try:
            self._rendered(_written(messages, ()) if self._writes_tools else messages, ())
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
        # Templates join texts, and a message that only calls tools has none.
        return {**message, "content": "" if content is None else content}


def _words(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _written(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages with tools, their calls and their results as text; the offer is the first message of the system."""
    result: list[Message] = []
    if tools:
        lines = "\n".join(json.dumps(each["function"], ensure_ascii=False) for each in tools)
        result.append({"role": "system", "content": _OFFER.format(tools=lines)})
    for each in messages:
        if each["role"] == "tool":
            result.append({"role": "user", "content": f"<tool_response>\n{each['content']}\n</tool_response>"})
        elif calls := each.get("tool_calls"):
            blocks = [f"<tool_call>\n{_call_text(call['function'])}\n</tool_call>" for call in calls]
            texts = [each["content"]] if each.get("content") else []
            result.append({"role": each["role"], "content": "\n".join([*texts, *blocks])})
        else:
            result.append(each)
    return result


def _call_text(function: Mapping[str, Any]) -> str:
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)


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
