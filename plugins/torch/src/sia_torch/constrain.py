"""Constrained decoding: which ids a sample may go on with, as a set of strings or a JSON schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sia_core.errors import UsageError
from sia_torch.tokens import Tokens


class Constraint(Protocol):
    """The state of one sample under a constraint."""

    def allowed(self) -> Sequence[int]:
        """The ids that may come next, at least one."""

    def advance(self, token: int) -> None:
        """Go on with one of them."""

    def rest(self) -> Sequence[int]:
        """All tokens up to the end, where nothing is left to choose; else none."""


class Trie:
    """A set of strings as a tree of token ids; what ends a string is the stop id. Shared by all samples under it."""

    def __init__(self, choices: Sequence[str], tokens: Tokens) -> None:
        if not choices or "" in choices:
            raise UsageError("a choice among strings needs at least one, and none of them empty")
        self.root: dict[int, Any] = {}
        for choice in choices:
            node = self.root
            for token in [*tokens.encode(choice), tokens.stops[0]]:
                node = node.setdefault(token, {})

    def start(self) -> Constraint:
        return _AtNode(self.root)


class _AtNode:
    def __init__(self, node: dict[int, Any]) -> None:
        self._node = node

    def allowed(self) -> Sequence[int]:
        return sorted(self._node)

    def advance(self, token: int) -> None:
        self._node = self._node[token]

    def rest(self) -> Sequence[int]:
        chain, node = [], self._node
        while len(node) == 1:
            token, node = next(iter(node.items()))
            chain.append(token)
        return [] if node else chain


class Grammar:
    """A JSON schema, compiled once; shared by all samples under it."""

    def __init__(self, schema: Mapping[str, Any], tokens: Tokens) -> None:
        from llguidance import LLMatcher

        self._tokenizer = tokens.for_grammar()
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        self._matcher = LLMatcher(self._tokenizer, grammar)
        if self._matcher.is_error():
            raise UsageError(f"the answer's schema cannot constrain sampling: {self._matcher.get_error()}")
        self._sets: dict[bytes, Sequence[int]] = {}

    def start(self) -> Constraint:
        return _Matching(self._matcher.deep_copy(), self._sets)


class _Matching:
    def __init__(self, matcher: Any, sets: dict[bytes, Sequence[int]]) -> None:
        self._matcher, self._sets = matcher, sets

    def allowed(self) -> Sequence[int]:
        mask: bytes = self._matcher.compute_bitmask()
        if mask not in self._sets:
            # Most states of a string allow the same 100,000 ids: every token shares one tuple of them.
            bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
            self._sets[mask] = tuple(np.flatnonzero(bits).tolist())
        return self._sets[mask]

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise UsageError(f"constrained sampling failed: {self._matcher.get_error()}")

    def rest(self) -> Sequence[int]:
        return []


class Constraints:
    """Compiles each constraint once."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._made: dict[str, Trie | Grammar] = {}

    def of(self, choices: Sequence[str], schema: Mapping[str, Any] | None) -> Trie | Grammar | None:
        """The constraint of a request, None where it has none."""
        if choices and schema is not None:
            raise UsageError("a request is constrained by choices or by a schema, not by both")
        if not choices and schema is None:
            return None
        key = json.dumps([list(choices), schema], sort_keys=True)
        if key not in self._made:
            self._made[key] = Trie(choices, self._tokens) if choices else Grammar(schema or {}, self._tokens)
        return self._made[key]
