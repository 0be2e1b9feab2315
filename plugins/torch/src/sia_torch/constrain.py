"""Constrained decoding: which ids a sample may go on with, as a set of strings or a JSON schema says."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sia_core.errors import UsageError
from sia_torch.tokens import Tokens

KEPT = 256
"""How many constraints are kept compiled."""
LEAST = -700.0
"""The least log-weight beside the largest one of a prior; below it exp is zero in double precision."""

MOST_OBJECTS = 2_000
"""A schema of more takes seconds to compile, and the time grows with its square."""

MOST_LEVELS = 500
"""How deep a schema may come to be by its references: the compiler recurses, and with its stack the process ends."""


class Constraint(Protocol):
    """The state of one sample under a constraint."""

    def allowed(self) -> Sequence[int]:
        """The ids that may come next, at least one."""

    def bias(self) -> Sequence[float] | None:
        """The bias of a prior on the logits of these ids; None without one."""

    def advance(self, token: int) -> None:
        """Go on with one of them."""

    def rest(self) -> Sequence[int]:
        """All tokens up to the end, where nothing is left to choose; else none."""


class Trie:
    """A set of strings as paths of token ids; what ends a string is the stop id. Shared by all samples under it."""

    def __init__(self, choices: Sequence[str], tokens: Tokens) -> None:
        if not choices or "" in choices:
            raise UsageError("a choice among strings needs at least one, and none of them empty")
        self._paths = [(*tokens.choice(choice), tokens.stops[0]) for choice in choices]

    def start(self, prior: Sequence[float] = ()) -> Constraint:
        """A sample's state; ``prior`` holds a log-weight for each of the strings, in their order."""
        if prior and (len(prior) != len(self._paths) or not all(map(math.isfinite, prior))):
            raise UsageError(f"a prior over {len(self._paths)} choices needs as many finite log-weights")
        return _AtNode(self._paths, prior)


class _AtNode:
    """The paths that are still open, all of the same first ``depth`` tokens, and their log-weights."""

    def __init__(self, paths: Sequence[tuple[int, ...]], prior: Sequence[float]) -> None:
        self._paths, self._prior, self._depth = paths, prior, 0

    def allowed(self) -> Sequence[int]:
        return sorted({path[self._depth] for path in self._paths})

    def bias(self) -> Sequence[float] | None:
        if not self._prior:
            return None
        # By a token's share of the weight below this node a policy without a preference samples the prior itself.
        peak = max(self._prior)
        below: dict[int, float] = {}
        for path, weight in zip(self._paths, self._prior, strict=True):
            below[path[self._depth]] = below.get(path[self._depth], 0.0) + math.exp(max(weight - peak, LEAST))
        total = math.fsum(below.values())
        return [math.log(below[token] / total) for token in sorted(below)]

    def advance(self, token: int) -> None:
        indices = [index for index, path in enumerate(self._paths) if path[self._depth] == token]
        self._paths = [self._paths[index] for index in indices]
        self._prior = [self._prior[index] for index in indices] if self._prior else ()
        self._depth += 1

    def rest(self) -> Sequence[int]:
        first = self._paths[0]
        return first[self._depth :] if all(path == first for path in self._paths) else ()


class Grammar:
    """A JSON schema, compiled once; shared by all samples under it."""

    def __init__(self, schema: Mapping[str, Any], tokens: Tokens) -> None:
        from llguidance import LLMatcher

        check_size(schema)
        self._tokenizer = tokens.for_grammar()
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        self._matcher = LLMatcher(self._tokenizer, grammar)
        if self._matcher.is_error():
            raise UsageError(f"the answer's schema cannot constrain sampling: {self._matcher.get_error()}")
        self._sets: dict[bytes, Sequence[int]] = {}

    def start(self, prior: Sequence[float] = ()) -> Constraint:
        """A sample's state; a schema has no prior."""
        if prior:
            raise UsageError("a prior weighs choices; a request without choices cannot have one")
        return _Matching(self._matcher.deep_copy(), self._sets)


def check_size(schema: Mapping[str, Any]) -> None:
    """UsageError where a schema is more than the compiler can take; who wrote it may be hostile."""
    level: list[Any] = [schema]
    references: set[str] = set()
    objects = depth = 0
    while level:
        inside = [each for each in level if isinstance(each, dict)]
        references |= {place for each in inside if isinstance(place := each.get("$ref"), str)}
        objects, depth = objects + len(inside), depth + 1
        lists = (each for each in level if isinstance(each, list))
        level = [child for each in (*lists, *(one.values() for one in inside)) for child in each]
    if objects > MOST_OBJECTS:
        raise UsageError(f"the answer's schema holds {objects} objects; at most {MOST_OBJECTS} can constrain sampling")
    if references and depth * (len(references) + 1) > MOST_LEVELS:
        raise UsageError(
            f"the answer's schema is {depth} levels deep and refers to {len(references)} places, which together may "
            f"come to more than {MOST_LEVELS} levels; write what it refers to in its place, or have it refer to less"
        )


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

    def bias(self) -> None:
        return None

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise UsageError(f"constrained sampling failed: {self._matcher.get_error()}")

    def rest(self) -> Sequence[int]:
        return []


class Constraints:
    """Compiles each constraint once, and forgets the ones that were not asked for lately."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._cache: OrderedDict[tuple[tuple[str, ...], str], Trie | Grammar] = OrderedDict()

    def of(self, choices: Sequence[str], schema: Mapping[str, Any] | None) -> Trie | Grammar | None:
        """The constraint of a request, None where it has none."""
        if choices and schema is not None:
            raise UsageError("a request is constrained by choices or by a schema, not by both")
        if not choices and schema is None:
            return None
        key = (tuple(choices), "" if schema is None else json.dumps(schema, sort_keys=True))
        if key not in self._cache:
            self._cache[key] = Trie(choices, self._tokens) if choices else Grammar(schema or {}, self._tokens)
        self._cache.move_to_end(key)
        if len(self._cache) > KEPT:  # a harness may ask with its own shortlist for every instance
            self._cache.popitem(last=False)
        return self._cache[key]
