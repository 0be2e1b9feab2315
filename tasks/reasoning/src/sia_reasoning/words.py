"""The data set ``words``: sums in words, such as "nine minus four"."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import add, mul, sub
from typing import Any

from sia_core.errors import UsageError
from sia_reasoning.cases import Case, Deal, Sizes, dealt, digest_of

SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
OPERATORS = {"plus": add, "minus": sub, "times": mul}

EXAMPLES = (
    "four plus seven",
    "eleven minus five",
    "three times eight",
    "two minus six",
    "nine plus twelve",
    "ten times four",
    "one plus three",
    "twelve minus nine",
)
"""The public split, whatever the seed: harnesses show them to the model, so no other split may hold them."""

LARGEST = 12
NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.0{1,9})?")


class Words:
    """Sums of two numbers from one to ``largest``, 12 by default; :class:`sia_reasoning.cases.Source`.

    Each sum is in one split alone. UsageError where there are fewer sums than ``sizes`` asks for.
    """

    numeric = True
    expressions: Mapping[str, str] = {
        "four plus seven": "4 + 7",
        "eleven minus five": "11 - 5",
        "three times eight": "3 * 8",
    }

    def __init__(self, difficulty: Mapping[str, Any], seed: int, sizes: Sizes) -> None:
        self._largest, self._seed, self._sizes = _largest(difficulty), seed, sizes
        self.about = (
            f'A question is a sum in words, such as "{EXAMPLES[0]}", of two numbers from one to '
            f"{number_word(self._largest)} with plus, minus or times; the answer is a number in digits."
        )
        self.digest = digest_of("words", 1, self._largest, seed, tuple(sizes.items()))

    @cached_property
    def deal(self) -> Deal:
        numbers = range(1, self._largest + 1)
        every = [
            f"{number_word(a)} {operator} {number_word(b)}" for a in numbers for operator in OPERATORS for b in numbers
        ]
        hidden = [question for question in every if question not in EXAMPLES]
        total = sum(self._sizes.values()) - self._sizes["public"]
        if total > len(hidden):
            raise UsageError(
                f"reasoning: the data set words has {len(hidden)} sums for search, gate and sealed, and {total} are "
                "asked for; make the splits smaller by --set search=, gate= or sealed=, or the numbers larger: "
                f"--set difficulty='{{\"largest\": {min(99, 2 * self._largest)}}}'"
            )
        random.Random(f"words {self._seed}").shuffle(hidden)
        questions = [*EXAMPLES[: self._sizes["public"]], *hidden]
        return dealt((Case(question, place) for place, question in enumerate(questions)), self._sizes)

    def answers(self, cases: Sequence[Case]) -> list[str | None]:
        return [str(value_of(case.question)) for case in cases]

    def score(self, case: Case, answer: str) -> tuple[float, str]:
        """1 for the number in digits, with spaces around it or zeros behind a point, else 0."""
        text = answer.strip()
        if not NUMBER.fullmatch(text):
            return 0.0, "the answer is no whole number in digits"
        return float(int(text.partition(".")[0]) == value_of(case.question)), ""


def value_of(question: str) -> int:
    """The value of a sum in words; ValueError for what is none."""
    left, operator, right = question.split()
    result: int = OPERATORS[operator](_VALUES[left], _VALUES[right])
    return result


def number_word(number: int) -> str:
    """A number from 0 to 99 in words, such as "forty-two"."""
    if number < len(SMALL):
        return SMALL[number]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f"-{SMALL[one]}" if one else "")


_VALUES = {number_word(number): number for number in range(100)}


def _largest(difficulty: Mapping[str, Any]) -> int:
    if unknown := sorted(difficulty.keys() - {"largest"}):
        raise UsageError(
            f"reasoning: the data set words has no difficulty setting {', '.join(unknown)}; it has: largest"
        )
    largest = difficulty.get("largest", LARGEST)
    if not isinstance(largest, int) or isinstance(largest, bool) or not LARGEST <= largest <= 99:
        raise UsageError(
            f"reasoning: the difficulty setting largest of words is a whole number from {LARGEST} to 99, "
            f"not {largest!r}"
        )
    return largest
