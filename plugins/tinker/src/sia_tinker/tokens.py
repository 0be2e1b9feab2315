"""A transformers tokenizer with its chat template, as the core wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sia_runtime.chat_template import ChatTemplate


class Tokens:
    """:class:`sia_core.learning.Tokens` of the base model."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self.render = ChatTemplate(tokenizer, name).render
        self.size = len(tokenizer)
        self.stops: tuple[int, ...] = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)

    def encode(self, text: str) -> list[int]:
        # What a case or a tool says must not open or close a turn.
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
