"""The data sets of reasoning-gym by name: questions from its generators, scores from its scorers."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sia_core.cache import cache_folder
from sia_core.errors import UsageError, meant
from sia_core.types import Split
from sia_reasoning.cases import SPLITS, Case, Deal, Sizes, dealt, digest_of
from sia_reasoning.guard import objection
from sia_reasoning.library_process import SCORE_SECONDS, LibraryProcess, LibraryRefused, LibraryStopped

CHUNK = 50
DRAWS = 20
"""Entries that are looked at for each question that is wanted, before a data set counts as too small."""

NUMBER = re.compile(r"\s*-?[0-9][0-9,]*(\.[0-9]+)?\s*")


@dataclass(frozen=True)
class QuestionSet:
    """The questions of each split, whether all answers are numbers, and the answers of the public split by id."""

    deal: Deal
    numeric: bool
    shown: Mapping[str, str | None]

    @classmethod
    def read(cls, path: Path) -> QuestionSet:
        """From a file of :meth:`write`."""
        content = json.loads(path.read_text(encoding="utf-8"))
        deal: dict[Split, tuple[Case, ...]] = {
            split: tuple(Case(question, place) for question, place in content["deal"][split]) for split in SPLITS
        }
        return cls(deal, content["numeric"], content["shown"])

    def write(self, path: Path) -> None:
        """Keep it in a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {split: [(case.question, case.place) for case in cases] for split, cases in self.deal.items()}
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"deal": rows, "numeric": self.numeric, "shown": self.shown}, file, ensure_ascii=False)
        os.replace(name, path)


class Library:
    """A data set of reasoning-gym; :class:`sia_reasoning.cases.Source`.

    ``difficulty`` are settings of the data set's configuration. Which questions there are follows
    from ``seed``; they are dealt out once and kept in the user's cache, without answers.
    UsageError where the name, a setting or the library itself is missing or wrong.
    """

    expressions: Mapping[str, str] = {
        "State the final answer to the following arithmetic problem: 12 + 30 - 4 =": "12 + 30 - 4",
        "Calculate 7 * (15 - 9).": "7 * (15 - 9)",
        "A farm has 3 cows and 2 hens. How many legs are there in total?": "3 * 4 + 2 * 2",
    }

    def __init__(self, dataset: str, difficulty: Mapping[str, Any], seed: int, sizes: Sizes) -> None:
        self._dataset, self._sizes = dataset, sizes
        self._difficulty = json.dumps(difficulty, sort_keys=True)
        self.digest = digest_of("reasoning-gym", _installed(), dataset, self._difficulty, seed, tuple(sizes.items()))
        self.about = (
            f"The questions are those of the data set {dataset} of reasoning-gym, and its scorer says what an answer "
            "is worth: 1 for one that is right, less or nothing for others."
        )
        # Entries are numbered from the library's seed on, so seeds side by side would share most of them.
        first = int(digest_of(dataset, seed)[:8], 16) // 2
        self._size = DRAWS * sum(sizes.values())
        self._process = LibraryProcess(dataset, difficulty, first, self._size)

    @property
    def deal(self) -> Deal:
        return self._made.deal

    @property
    def numeric(self) -> bool:
        return self._made.numeric

    def answers(self, cases: Sequence[Case]) -> list[str | None]:
        answers = self._made.shown
        return [answers[case.id] if case.id in answers else self._answer(case.place) for case in cases]

    def score(self, case: Case, answer: str) -> tuple[float, str]:
        """The scorer's reward. 0 where it fails, does not end within seconds, or may not see the answer."""
        if why := objection(self._dataset, answer):
            return 0.0, why
        try:
            return self._process.score(case.place, case.question, answer)
        except LibraryRefused as refusal:
            raise UsageError(self._refused(refusal)) from None
        except LibraryStopped:
            return 0.0, f"the scorer did not come to an end within {SCORE_SECONDS} s"

    def _answer(self, place: int) -> str | None:
        answer: str | None = self._entries(place, place + 1)[0]["answer"]
        return answer

    @cached_property
    def _made(self) -> QuestionSet:
        path = cache_folder("reasoning") / f"{self.digest[:32]}.json"
        try:
            return QuestionSet.read(path)
        except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
            pass
        answers: list[str | None] = []

        def cases() -> Iterator[Case]:
            for start in range(0, self._size, CHUNK):
                for entry in self._entries(start, min(self._size, start + CHUNK)):
                    answers.append(entry["answer"])
                    yield Case(entry["question"], len(answers) - 1)

        try:
            deal = dealt(cases(), self._sizes, self.expressions)
        finally:
            self._process.close()
        if len(deal["sealed"]) < self._sizes["sealed"]:
            count, total = sum(map(len, deal.values())), sum(self._sizes.values())
            raise UsageError(
                f"reasoning: the data set {self._dataset} gave {count} different questions, and {total} are asked "
                "for; make the splits smaller by --set search=, gate= or sealed=, or the questions more various by "
                "--set difficulty="
            )
        numeric = all(NUMBER.fullmatch(answer or "") for answer in answers)
        result = QuestionSet(deal, numeric, {case.id: answers[case.place] for case in deal["public"]})
        result.write(path)
        return result

    def _entries(self, start: int, stop: int) -> list[dict[str, Any]]:
        try:
            entries = self._process.entries(start, stop)
        except LibraryRefused as refusal:
            raise UsageError(self._refused(refusal)) from None
        except LibraryStopped:
            raise UsageError(
                f"reasoning: the data set {self._dataset} did not make its questions in time with difficulty "
                f"{self._difficulty}; choose easier settings"
            ) from None
        for entry in entries:
            if entry["answer"] is not None and objection(self._dataset, entry["answer"]):
                entry["answer"] = None  # such as an integral that the library left as it is
        return entries

    def _refused(self, refusal: LibraryRefused) -> str:
        if str(refusal) == "no such data set":
            names = ["words", *refusal.names]
            near = meant(self._dataset, names) or f"; there are: {', '.join(names)}"
            return f"reasoning: no data set named {self._dataset!r}{near}"
        settings = f"; its difficulty settings are: {', '.join(refusal.names)}" if refusal.names else ""
        return f"reasoning: the data set {self._dataset} with difficulty {self._difficulty}: {refusal}{settings}"


def _installed() -> str:
    """The library's version; UsageError where it is not there."""
    try:
        return version("reasoning-gym")
    except PackageNotFoundError:
        raise UsageError(
            "reasoning: every data set but words takes the library reasoning-gym: pip install 'sia-reasoning[gym]'"
        ) from None
