"""The LawBench cases: parsed, freed of repetitions, and split.

The labels of the sealed cases are not read here but in the verifier alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sia_core.errors import UsageError
from sia_core.types import Split
from sia_lawbench.source import CHARGES, TEST, TRAIN, Source

SHARES: Mapping[Split, int] = {"public": 8, "search": 7, "gate": 5}
"""How the training cases are shared out, in twentieths."""


@dataclass(frozen=True)
class Case:
    """A case of the training data, with its charge."""

    id: str
    text: str
    charge: str


@dataclass(frozen=True)
class Question:
    """A sealed case. ``row`` is its row in the files, by which its label is found."""

    id: str
    text: str
    row: str


class Data:
    """The files' contents, each read when first asked for."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source = source
        self.seed = seed

    @cached_property
    def charges(self) -> tuple[str, ...]:
        """The names of the charges, in the order of the file."""
        try:
            names = json.loads(self.source.read(CHARGES))
        except ValueError as error:
            raise _malformed(self.source, CHARGES, str(error)) from None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise _malformed(self.source, CHARGES, "expected a list of names")
        if len(set(names)) != len(names):
            raise _malformed(self.source, CHARGES, "a name occurs twice")
        return tuple(names)

    @cached_property
    def sealed(self) -> tuple[Question, ...]:
        """The test cases, every one, in an order that says nothing."""
        counts: Counter[str] = Counter()
        questions = []
        for row, text in read_rows(self.source, TEST, ("id", "text")):
            # Two texts occur twice among them; the figures of others count both, so they keep an id each.
            questions.append(Question(case_id(text, counts[text]), text, row))
            counts[text] += 1
        return tuple(sorted(questions, key=lambda question: question.id))

    @cached_property
    def labelled(self) -> Mapping[Split, tuple[Case, ...]]:
        """The training cases by split, each in an order that says nothing of the charges."""
        split: dict[Split, list[Case]] = {name: [] for name in SHARES}
        for name, case in share_out(self._train(), self.seed):
            split[name].append(case)
        return {name: tuple(sorted(cases, key=lambda case: case.id)) for name, cases in split.items()}

    def _train(self) -> list[Case]:
        """The training cases without those that repeat a test case or one another."""
        charges = set(self.charges)
        essences = {_essence(question.text) for question in self.sealed}
        cases = []
        for number, (text, charge) in enumerate(read_rows(self.source, TRAIN, ("text", "label")), start=1):
            if charge not in charges:
                raise _malformed(self.source, TRAIN, f"case {number} has a label that is not in {CHARGES}: {charge!r}")
            essence = _essence(text)
            if essence not in essences:
                essences.add(essence)
                cases.append(Case(case_id(text), text, charge))
        return cases


def read_rows(source: Source, name: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The named columns of a CSV file; UsageError where the file does not hold them."""
    try:
        text = source.read(name).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise _malformed(source, name, f"no column {missing[0]!r}; its first line is {','.join(header)[:80]!r}")
        where = [header.index(column) for column in columns]
        records = []
        for row in rows:
            if len(row) != len(header):
                raise _malformed(source, name, f"line {rows.line_num} has {len(row)} fields, not {len(header)}")
            records.append(tuple(row[index] for index in where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _malformed(source, name, str(error)) from None
    if not records:
        raise _malformed(source, name, "it holds no case")
    return records


def share_out(cases: Sequence[Case], seed: int) -> list[tuple[Split, Case]]:
    """Deal the cases to the labelled splits, charge by charge, so that each gets its share of each charge.

    A case goes to the split that is furthest behind within its charge; where two
    are equally far, to the one that is further behind over all.
    """
    of_charge: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case.id}".encode()).digest()):
        of_charge[case.charge].append(case)
    dealt: list[tuple[Split, Case]] = []
    over_all: Counter[Split] = Counter()
    for charge in sorted(of_charge):
        within: Counter[Split] = Counter()
        for case in of_charge[charge]:
            for name, share in SHARES.items():
                within[name] += share
                over_all[name] += share
            next_split = max(SHARES, key=lambda name: (within[name], over_all[name]))
            within[next_split] -= sum(SHARES.values())
            over_all[next_split] -= sum(SHARES.values())
            dealt.append((next_split, case))
    return dealt


def case_id(text: str, repetition: int = 0) -> str:
    """An identifier from the text alone."""
    suffix = f"\0{repetition}" if repetition else ""
    return hashlib.sha256((text + suffix).encode()).hexdigest()[:12]


def _essence(text: str) -> str:
    """The text without what makes no difference: punctuation, white space, full-width forms of letters and digits."""
    # Normalising is slow on Chinese punctuation, and fast once that is gone.
    return unicodedata.normalize("NFKC", re.sub(r"\W+", "", text))


def _malformed(source: Source, name: str, what: str) -> UsageError:
    return UsageError(
        f"lawbench: {name} in {source.path} is malformed: {what}; "
        f"compare it with the file in the wheel of sia-agent 0.6.0, or leave --data out to have that fetched"
    )
