"""The settings of the task, which its verifier shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sia_core.errors import UsageError
from sia_reasoning.cases import PUBLIC, Sizes, Source

WORDS = "words"
MOST = 10_000


@dataclass(frozen=True)
class Settings:
    """A data set, how hard it is, and how many questions each split has. ``difficulty`` is a JSON object as text."""

    dataset: str
    difficulty: str
    search: int
    gate: int
    sealed: int
    seed: int

    @classmethod
    def of(
        cls,
        dataset: str = WORDS,
        difficulty: str | Mapping[str, Any] = "{}",
        search: int | str = 192,
        gate: int | str = 80,
        sealed: int | str = 152,
        seed: int = 0,
    ) -> Settings:
        """Settings as a command line or Python gives them; UsageError says which one is wrong, and how."""
        counts = {"search": search, "gate": gate, "sealed": sealed}
        sizes = {name: counted(name, value, "questions") for name, value in counts.items()}
        return cls(dataset, json.dumps(_object(difficulty), sort_keys=True), **sizes, seed=seed)

    @property
    def sizes(self) -> Sizes:
        """How many questions each split has."""
        return {"public": PUBLIC, "search": self.search, "gate": self.gate, "sealed": self.sealed}

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON; :meth:`of` reads them back."""
        return asdict(self)

    def source(self) -> Source:
        """Where the questions come from."""
        difficulty = json.loads(self.difficulty)
        if self.dataset == WORDS:
            from sia_reasoning.words import Words

            return Words(difficulty, self.seed, self.sizes)
        from sia_reasoning.library import Library

        return Library(self.dataset, difficulty, self.seed, self.sizes)


def counted(name: str, value: int | str, of: str) -> int:
    """A setting that is a count, as a number; UsageError where it is none."""
    try:
        size = int(value)
    except ValueError:
        size = 0
    if not 1 <= size <= MOST:
        raise UsageError(f"reasoning: --set {name}={value}: say how many {of}, from 1 to {MOST:,}")
    return size


def _object(difficulty: str | Mapping[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(difficulty) if isinstance(difficulty, str) else dict(difficulty)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(
            f"reasoning: --set difficulty={difficulty}: write a JSON object, such as '{{\"max_terms\": 3}}'"
        )
    return value
