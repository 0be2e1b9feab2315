"""The task of people who have an agent already: a folder with a harness, and a file of cases.

``sia run --harness ./my_agent --data cases.jsonl --verifier exact``. A case is a row of the file,
``{"input": ..., "answer": ...}``, with an ``id`` and a ``split`` if it likes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import RootModel

from sia_adapters.cases_of import SPLIT_NAMES, USUAL, Columns, case_of, line_of
from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.given_files import read_file, read_named
from sia_core.harness import HarnessTree
from sia_core.playbook import PLAYBOOK, Playbook
from sia_core.run.ledger import canonical
from sia_core.types import Instance, Kind, Limits, OfferRef, Split
from sia_runtime.answers import time_limit
from sia_runtime.data_files import NUMBER, rows_in
from sia_runtime.metrics import metric_of, worst

SHARES: tuple[tuple[Split, float], ...] = (("public", 0.25), ("search", 0.25), ("gate", 0.25), ("sealed", 0.25))
"""How cases without a ``split`` are dealt out."""

LEAST = 8

MOSTLY = 0.9
"""The share of a column's cells from which those that are no numbers look like slips."""

NAMELESS = ("agent", "harness")
"""Names of folders that say nothing: such a task is named after the folder that holds it."""


class Answer(RootModel[Any]):
    """Any JSON value; the verifier compares it."""


@dataclass(frozen=True)
class Case:
    """One row of the file. ``id`` is the digest of its input; ``name`` the user's own id, which may tell the label."""

    id: str
    name: str
    input: dict[str, Any]
    answer: Any
    split: Split | None
    line: int


def read_cases(path: Path, columns: Columns = USUAL) -> list[Case]:
    """Read a file of cases; UsageError with file and line, or row, where one is malformed."""
    try:
        content = read_named(path)
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror}") from None
    cases: list[Case] = []
    places: dict[str, str] = {}
    texts: dict[str, str] = {}
    for row in rows_in(content, path.name, f"--data {path}"):
        where = f"--data {path}, {row.place}"
        value = case_of(row.value, columns, where)
        if row.of_csv and value["answer"] in (None, ""):
            raise UsageError(f"{where}: no answer; give one, or leave the row out")
        if row.of_csv and isinstance(value["answer"], str):
            texts[where] = value["answer"]
        case = _read_case(value, where, row.number)
        for mark, what in ((f"input {case.id}", "input"), (f"name {case.name}", "id")):
            if (other := places.setdefault(mark, row.place)) != row.place:
                raise UsageError(
                    f"{where}: the same {what} as in {other}; a case must not be in two splits, so give each once"
                )
        cases.append(case)
    _check_texts(texts)
    if len(cases) < LEAST:
        count = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
        raise UsageError(f"--data {path}: {count}; at least {LEAST} are needed for four disjoint splits")
    return cases


def _check_texts(answers: Mapping[str, str]) -> None:
    """UsageError where CSV's answers are texts for the sake of a few: none would equal the number that it is."""
    others = {where: text for where, text in answers.items() if not NUMBER.fullmatch(text.strip())}
    numbers = len(answers) - len(others)
    if others and numbers >= MOSTLY * len(answers):
        where, text = next(iter(others.items()))
        raise UsageError(
            f"{where}: the answer {text.strip()[:40]!r} is no number as JSON writes it, so the {numbers:,} "
            "others that are would be texts, too; write a number, leave the row out, or give JSON Lines, where each "
            "answer has a type"
        )


def _read_case(value: Mapping[str, Any], where: str, number: int) -> Case:
    line_of(value, where)
    fields, named = value["input"], value.get("split")
    split = SPLIT_NAMES.get(named.strip().casefold()) if isinstance(named, str) else None
    if named is not None and split is None:
        raise UsageError(
            f"{where}: split {named!r} is none of public, search, gate, sealed, nor of train, validation, test"
        )
    if not isinstance(fields, dict):
        fields = {"text": fields}
    digest = hashlib.sha256(canonical(fields).encode()).hexdigest()[:12]
    name = value.get("id", digest)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise UsageError(f"{where}: an id is a text or an integer, not {canonical(name)[:40]}")
    return Case(digest, str(name), fields, value["answer"], split, number)


def _copy(cases: Sequence[Case]) -> bytes:
    """The cases as JSON Lines, each on the line that its number says."""
    lines = [""] * max(case.line for case in cases)
    for case in cases:
        beside = {"split": case.split} if case.split else {}
        value = {"id": case.name, "input": case.input, "answer": case.answer, **beside}
        lines[case.line - 1] = json.dumps(value, ensure_ascii=False)
    return "\n".join([*lines, ""]).encode()


def _name(folder: Path) -> str:
    """The task's name, after the agent's folder."""
    return folder.parent.name or folder.name if folder.name in NAMELESS else folder.name


class Cases:
    """A ``solve`` task made of a harness's folder and a file of cases, split by seed and content.

    ``seconds`` is the time limit of one case; the set-up has ten times as long. ``metric`` is what
    the verifier measures, as ``NAME[:max|min][:LOW,HIGH]``; a failure earns the worst of its bounds.
    ``input_column`` and ``answer_column`` name the columns of the file that hold a case's.
    """

    kind: Kind = "solve"
    answer = Answer
    perturbation = "white space doubled"

    def __init__(
        self,
        data: str,
        harness: str,
        seed: int = 0,
        seconds: str = "30",
        metric: str = "score",
        input_column: str = "",
        answer_column: str = "",
    ) -> None:
        self.metric = metric_of(metric)
        self.failure_reward = worst(self.metric)
        self._data, self._folder, self._seed = Path(data).resolve(), Path(harness), seed
        self.name = _name(self._folder.resolve())
        self._cases = read_cases(self._data, Columns(input_column, answer_column))
        limit = time_limit(seconds, f"--set seconds={seconds}")
        self.limits = Limits(setup_seconds=10 * limit, solve_seconds=limit)
        # A separate copy, so that a file that is edited meanwhile changes no score.
        copy = write_once(cache_folder("cases"), {"cases.jsonl": _copy(self._cases)}) / "cases.jsonl"
        self.verifier = OfferRef("exact", {"data": str(copy)})
        content = sorted(canonical([case.id, case.name, case.input, case.answer, case.split]) for case in self._cases)
        self.fingerprint = hashlib.sha256(canonical([content, str(seed)]).encode()).hexdigest()

    @cached_property
    def brief(self) -> str:
        """The README of the harness's folder, or a sentence."""
        for name in ("task.md", "README.md"):
            with suppress(FileNotFoundError):
                return read_file(self._folder, name).decode(errors="replace")[:20_000]
        name = self.metric.name
        measured = "the score is the share of right answers" if name == "score" else f"their {name} is measured"
        return f"Answer cases like those in {self._data.name}; {measured}."

    @cached_property
    def _splits(self) -> dict[Split, list[Case]]:
        dealt: dict[Split, list[Case]] = {split: [] for split, _ in SHARES}
        free: list[Case] = []
        for case in sorted(self._cases, key=self._place):
            (dealt[case.split] if case.split else free).append(case)
        start, share = 0, 0.0
        for split, part in SHARES:
            share += part
            end = round(share * len(free))
            dealt[split] += free[start:end]
            start = end
        for split, cases in dealt.items():
            if not cases and split != "public":
                other = {"search": "train", "gate": "validation", "sealed": "test"}[split]
                raise UsageError(
                    f"--data {self._data}: no case is in the split {split!r}, which may be called {other!r}; put some "
                    "into it, or give no splits, and a quarter of the cases goes to each"
                )
        return dealt

    def _place(self, case: Case) -> bytes:
        """Where a case stands in the shuffled order: by seed and id, so that the order of the lines does not matter."""
        return hashlib.sha256(f"cases {self._seed} {case.id}".encode()).digest()

    def instances(self, split: Split) -> Sequence[Instance]:
        return [Instance(case.id, split, case.input) for case in self._splits[split]]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder with ``cases.jsonl``: id, input and answer of each case of these splits."""
        if "sealed" in splits:
            raise UsageError("the sealed cases are for the report alone; ask for public, search or gate")
        text = "".join(
            json.dumps({"id": case.id, "input": case.input, "answer": case.answer}, ensure_ascii=False) + "\n"
            for split in sorted(set(splits))
            for case in self._splits[split]
        )
        return write_once(cache_folder("public"), {"cases.jsonl": text.encode()})

    def perturbed(self, instance: Instance) -> dict[str, Any]:
        """The input with every space in its texts doubled, and one more around them."""
        return {name: _spaced(value) for name, value in instance.input.items()}

    def seed_harness(self) -> HarnessTree:
        """The user's folder, without its playbook: that is the improver's."""
        tree = HarnessTree.from_folder(self._folder)
        files = {path: content for path, content in tree.files.items() if path != PLAYBOOK}
        return HarnessTree(files, tree.left_out)

    def playbook(self) -> Playbook | None:
        """The catalogue in the user's folder, as it was when it was first asked for."""
        return self._playbook

    @cached_property
    def _playbook(self) -> Playbook | None:
        return Playbook.in_folder(self._folder)


def _spaced(value: Any) -> Any:
    """A JSON value with the spaces of its texts doubled, and one more around them; keys stay."""
    if isinstance(value, str):
        return " " + value.replace(" ", "  ") + " "
    if isinstance(value, list):
        return [_spaced(each) for each in value]
    if isinstance(value, dict):
        return {key: _spaced(each) for key, each in value.items()}
    return value
