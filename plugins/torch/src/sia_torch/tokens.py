"""Text to token ids and back: a fixed character tokenizer for ``tiny``, and transformers' for the others."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from sia_runtime.chat_template import ChatTemplate

ROLES = ("system", "user", "assistant", "tool")
SPECIALS = ("<end>", *(f"<{role}>" for role in ROLES))
WHOLE = 4096
"""How many ids stand for whole answers."""


class Tokens(Protocol):
    """An engine's view of a tokenizer. ``stops`` are the ids that end a turn, the first of them the usual one."""

    size: int
    stops: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """The ids of a text; markup of turns in it is text like any other."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without markup; a character that is cut off becomes U+FFFD."""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt that asks for the next turn after ``messages``, in the shape of chat completions."""

    def choice(self, text: str) -> list[int]:
        """The ids of one of several answers to choose among, without what ends the turn."""

    def for_grammar(self) -> Any:
        """llguidance's ``LLTokenizer`` of the same ids."""


class CharTokens:
    """Ids of characters: markup, the 256 bytes, then punctuation and the 3,755 commonest Chinese characters.

    The list is the first level of GB 2312, which never changes and needs no text to be
    built from; what it does not hold is spelled in the bytes of its UTF-8.

    An answer that is one of several opens with an id that is a hash of the whole, and is
    spelled after it. So a policy decides among answers at once: decided a character at a
    time, answers that begin alike share what each of them should learn alone, which costs
    a third of the accuracy.
    """

    def __init__(self) -> None:
        self._first_byte = len(SPECIALS)
        self._characters = list(_common())
        offset = self._first_byte + 256
        self._ids = {character: offset + index for index, character in enumerate(self._characters)}
        self._first_whole = offset + len(self._characters)
        self.size = self._first_whole + WHOLE
        self.stops: tuple[int, ...] = (0,)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            if character in self._ids:
                ids.append(self._ids[character])
            else:
                ids += [self._first_byte + byte for byte in character.encode("utf-8", "replace")]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        written = (self.pieces[each] for each in ids if self._first_byte <= each < self._first_whole)
        return b"".join(written).decode("utf-8", "replace")

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += [1 + ROLES.index(message["role"]), *self.encode(message.get("content") or ""), 0]
        return [*ids, 1 + ROLES.index("assistant")]

    def choice(self, text: str) -> list[int]:
        return [self._first_whole + zlib.crc32(text.encode("utf-8", "replace")) % WHOLE, *self.encode(text)]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each id."""
        plain = [bytes([value]) for value in range(256)]
        whole = (f"<whole {number}>" for number in range(WHOLE))
        return [*(each.encode() for each in SPECIALS), *plain, *(each.encode() for each in (*self._characters, *whole))]

    def for_grammar(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_ForGrammar(self)))


class _ForGrammar:
    """The tokenizer as llguidance looks at it."""

    def __init__(self, tokens: CharTokens) -> None:
        self.eos_token_id = tokens.stops[0]
        self.bos_token_id = None
        self.tokens = tokens.pieces
        self.special_token_ids = [*range(len(SPECIALS)), *range(tokens.size - WHOLE, tokens.size)]
        self._encode = tokens.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class HfTokens:
    """A transformers tokenizer with its chat template."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, stops: Sequence[int], size: int) -> None:
        self.tokenizer, self.stops, self.size = tokenizer, tuple(stops), size
        self.render = template.render

    def encode(self, text: str) -> list[int]:
        # What a case or a tool says must not open or close a turn.
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def choice(self, text: str) -> list[int]:
        return self.encode(text)

    def for_grammar(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self.tokenizer, n_vocab=self.size, eos_token=self.stops[0])


def _common() -> Iterator[str]:
    """GB 2312's punctuation, full-width forms and hanzi of the first level, in its order."""
    for row in (*range(0xA1, 0xA4), *range(0xB0, 0xD8)):
        for cell in range(0xA1, 0xFF):
            try:
                yield bytes([row, cell]).decode("gb2312")
            except UnicodeDecodeError:
                continue  # a few cells are not assigned
