"""A transformers tokenizer with its chat template, as the core wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Tokens:
    """:class:`sia_core.learning.Tokens` of the base model."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = len(tokenizer)
        self.stops: tuple[int, ...] = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)

    def encode(self, text: str) -> list[int]:
        # What a case or a tool says must not open or close a turn.
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        prompt = self._tokenizer.apply_chat_template(
            [self._harmless(each) for each in messages],
            tools=[dict(each) for each in tools] or None,
            add_generation_prompt=True,
            return_dict=False,
        )
        return list(prompt)

    def _harmless(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message in which markup is text: a zero-width space breaks it, since templates know no other way."""
        content = message.get("content")
        if isinstance(content, str):
            for markup in {str(each) for each in self._tokenizer.added_tokens_decoder.values()}:
                content = content.replace(markup, f"{markup[:1]}\u200b{markup[1:]}")
        return {**message, "content": content}
