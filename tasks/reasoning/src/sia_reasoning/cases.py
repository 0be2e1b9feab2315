"""Questions, and how they are dealt out to the splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from sia_core.types import Split

SPLITS: tuple[Split, ...] = ("public", "search", "gate", "sealed")
PUBLIC = 8
"""Questions whose answers harnesses may read: worked examples, which no other split holds."""

Sizes = Mapping[Split, int]


@dataclass(frozen=True)
class Case:
    """A question without its answer. ``place`` is where its source finds it again."""

    question: str
    place: int

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.question.encode()).hexdigest()[:12]


Deal = Mapping[Split, tuple[Case, ...]]


class Source(Protocol):
    """Where questions come from, and what is true of them.

    Attributes
    ----------
    about : a sentence or two for the brief.
    deal : the questions of each split; no question is in two.
    numeric : whether every answer is a number.
    expressions : questions of this kind with an arithmetic expression for each, for worked examples.
    digest : of all that decides the questions.
    """

    about: str
    expressions: Mapping[str, str]

    @property
    def deal(self) -> Deal: ...

    @property
    def numeric(self) -> bool: ...

    @property
    def digest(self) -> str: ...

    def answers(self, cases: Sequence[Case]) -> list[str | None]:
        """A right answer of each case; None where there is none to show."""

    def score(self, case: Case, answer: str) -> tuple[float, str]:
        """The reward of an answer, from 0 to 1, and what there is to say of it; an empty text for nothing."""


def dealt(cases: Iterable[Case], sizes: Sizes, examples: Iterable[str] = ()) -> dict[Split, tuple[Case, ...]]:
    """The first cases to the first split and so on; a question that was met before is passed over.

    So is one of the ``examples`` that the model sees. Stops to read ``cases`` as soon as every
    split has as many as ``sizes`` says; the last may get fewer. In a split they stand in the order
    of their ids, which tells nothing of where they came from.
    """
    total, passed = sum(sizes.values()), {plain(question) for question in examples}
    unique: dict[str, Case] = {}
    for case in cases:
        key = plain(case.question)
        if key not in passed:
            unique.setdefault(key, case)
        if len(unique) == total:
            break
    rest = iter(unique.values())
    return {
        split: tuple(sorted((case for _, case in zip(range(size), rest, strict=False)), key=lambda case: case.id))
        for split, size in sizes.items()
    }


def plain(question: str) -> str:
    """A question as it is compared with others: case and white space do not count."""
    return " ".join(question.split()).casefold()


def digest_of(*parts: Any) -> str:
    """SHA-256 of what these print as."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
