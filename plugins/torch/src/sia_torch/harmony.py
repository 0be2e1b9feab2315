"""gpt-oss's chat format, rendered and parsed by its own library.

A turn of the model is a row of messages on channels: ``analysis`` is its reasoning, ``commentary``
its calls of tools, ``final`` what it says. The reasoning of earlier turns is dropped when a
conversation is rendered, as the format demands; a turn of the policy is trained on whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sia_core.errors import UsageError

FUNCTIONS = "functions."
Effort = Literal["low", "medium", "high"]


class HarmonyTokens:
    """:class:`sia_torch.tokens.Tokens` of gpt-oss; ``size`` is of the model's vocabulary, which has room to spare."""

    def __init__(self, size: int, effort: Effort) -> None:
        self._harmony, self._encoding = _library()
        self.size, self._effort = size, effort
        self.stops: tuple[int, ...] = tuple(sorted(self._encoding.stop_tokens_for_assistant_actions()))
        self._channel, self._message = (self._special(each) for each in ("channel", "message"))
        self._markup = frozenset(self._special(each) for each in ("start", "channel", "message", "end"))

    def encode(self, text: str) -> list[int]:
        # What a case or a tool says must not open or close a turn.
        return list(self._encoding.encode(text, disallowed_special=()))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a turn on its final channel, and its calls of tools as the gateway reads them; no reasoning.

        Ids without any markup are text.
        """
        if not self._markup & set(ids):
            return str(self._encoding.decode([each for each in ids if each not in self.stops]))
        return "".join(self._said(list(ids)))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        harmony = self._harmony
        turns = [each for each in messages if each["role"] != "system"]
        instructions = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
        effort = harmony.ReasoningEffort(self._effort.capitalize())
        system = harmony.SystemContent.new().with_reasoning_effort(effort)
        whole = [harmony.Message.from_role_and_content(harmony.Role.SYSTEM, system)]
        if instructions or tools:
            developer = harmony.DeveloperContent.new()
            if instructions:
                developer = developer.with_instructions(instructions)
            if tools:
                developer = developer.with_function_tools([self._tool(each["function"]) for each in tools])
            whole.append(harmony.Message.from_role_and_content(harmony.Role.DEVELOPER, developer))
        whole += self._turns(turns)
        conversation = harmony.Conversation.from_messages(whole)
        return list(self._encoding.render_conversation_for_completion(conversation, harmony.Role.ASSISTANT))

    def choice(self, text: str) -> list[int]:
        """One of several answers, said at once: on the final channel, without reasoning."""
        return [self._channel, *self.encode("final"), self._message, *self.encode(text)]

    def for_grammar(self) -> Any:
        raise UsageError(
            "a schema cannot constrain a policy that speaks harmony; ask for choices, or set chat=template"
        )

    def _special(self, name: str) -> int:
        (token,) = self._encoding.encode(f"<|{name}|>", allowed_special="all")
        return int(token)

    def _tool(self, function: Mapping[str, Any]) -> Any:
        description = function.get("description", "")
        return self._harmony.ToolDescription.new(function["name"], description, parameters=function.get("parameters"))

    def _turns(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        harmony, names = self._harmony, dict[str, str]()
        for each in messages:
            content = each.get("content") or ""
            if each["role"] == "tool":
                name = names.get(each.get("tool_call_id", ""), "tool")
                author = harmony.Author.new(harmony.Role.TOOL, FUNCTIONS + name)
                result = harmony.Message.from_author_and_content(author, content)
                yield result.with_channel("commentary").with_recipient("assistant")
                continue
            role = harmony.Role(each["role"])
            calls = each.get("tool_calls", ())
            if content or not calls:
                turn = harmony.Message.from_role_and_content(role, content)
                yield turn.with_channel("final") if each["role"] == "assistant" else turn
            for call in calls:
                function = call["function"]
                names[call["id"]] = function["name"]
                arguments = function["arguments"]
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                message = harmony.Message.from_role_and_content(role, text).with_channel("commentary")
                yield message.with_recipient(FUNCTIONS + function["name"]).with_content_type("<|constrain|>json")

    def _said(self, ids: list[int]) -> Iterator[str]:
        """The parts of a turn that are said to somebody; of one that was cut off, or is malformed, what can be read."""
        harmony = self._harmony
        parser = harmony.StreamableParser(self._encoding, role=harmony.Role.ASSISTANT)
        try:
            for token in ids:
                parser.process(token)
        except harmony.HarmonyError:
            yield from self._parts(parser.messages)
            return
        yield from self._parts(parser.messages)
        if parser.current_channel == "final" and parser.current_content:
            yield parser.current_content

    def _parts(self, messages: Sequence[Any]) -> Iterator[str]:
        for each in messages:
            text = "".join(part.text for part in each.content)
            if each.recipient and each.recipient.startswith(FUNCTIONS):
                name = json.dumps(each.recipient.removeprefix(FUNCTIONS))
                yield f'<tool_call>{{"name": {name}, "arguments": {text}}}</tool_call>'
            elif each.channel in (None, "final"):
                yield text


def _library() -> tuple[Any, Any]:
    try:
        import openai_harmony
    except ImportError:
        raise UsageError("chat=harmony needs its library: pip install 'sia-torch[harmony]'") from None
    try:
        return openai_harmony, openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    except openai_harmony.HarmonyError as error:
        raise UsageError(
            f"harmony's vocabulary cannot be loaded: {error}. It is downloaded once; where there is no network, put "
            "o200k_base.tiktoken into a folder and name that in TIKTOKEN_ENCODINGS_BASE"
        ) from None
