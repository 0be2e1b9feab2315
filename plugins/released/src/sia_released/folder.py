"""The contents of a task folder, and the split of its questions."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.given_files import read_file, read_folder
from sia_core.types import Split
from sia_released.rows import Table, table

DEALT: tuple[Split, ...] = ("search", "gate", "sealed")
"""The splits that questions are dealt to; the split ``public`` holds none."""

PARTS = 64
"""Into about how many parts a split's questions go, unless the run says how many questions an instance has."""

EVALUATE = "evaluate.py"
TASK = "task.md"
REFERENCE = "reference_target_agent.py"

Part = tuple[str, ...]


@dataclass(frozen=True)
class TaskFolder:
    """The files of a folder, each read when it is first asked for."""

    path: Path

    @cached_property
    def public(self) -> Mapping[str, bytes]:
        """The files of ``data/public`` by name."""
        return self._files("public")

    @cached_property
    def private(self) -> Mapping[str, bytes]:
        """The files of ``data/private`` by name."""
        return self._files("private")

    def _files(self, which: str) -> dict[str, bytes]:
        try:
            return dict(read_folder(self.path, "data", which, skip=lambda path: Path(path).name == "__pycache__"))
        except OSError:
            raise UsageError(
                f"--task-dir {self.path}: no folder data/{which}; a task folder has public and private data"
            ) from None

    @cached_property
    def brief(self) -> str:
        """``task.md``."""
        if TASK not in self.public:
            raise UsageError(f"--task-dir {self.path}: no data/public/{TASK}, which says what the task is")
        return self.public[TASK].decode(errors="replace")

    @property
    def evaluate(self) -> tuple[Path, bytes] | None:
        """The script that scores, in ``data/public`` or beside ``data``: its place in the folder, and its content."""
        if EVALUATE in self.public:
            return Path("data", "public", EVALUATE), self.public[EVALUATE]
        try:
            return Path(EVALUATE), read_file(self.path, EVALUATE)
        except FileNotFoundError:
            return None

    @cached_property
    def questions(self) -> Mapping[str, Table]:
        """The public files that have a row for each row of a private one."""
        answered = [set(each.ids) for each in self.answers.values()]
        tables = {name: table(name, content) for name, content in self.public.items()}
        return {name: each for name, each in tables.items() if each is not None and set(each.ids) in answered}

    @cached_property
    def answers(self) -> Mapping[str, Table]:
        """The private files that have rows with ids."""
        tables = {name: table(name, content) for name, content in self.private.items()}
        return {name: each for name, each in tables.items() if each is not None}

    @cached_property
    def ids(self) -> Part:
        """The ids of all questions."""
        if not self.questions:
            raise UsageError(
                f"--task-dir {self.path}: no file of data/public has the same ids as one of data/private, so the "
                "questions cannot be dealt out over search, gate and sealed; give both an id column, as CSV or JSON"
            )
        return max((each.ids for each in self.questions.values()), key=len)

    def dealt(self, seed: int, items: int | None) -> Mapping[Split, list[Part]]:
        """The questions in parts of ``items``, by split, in an order that depends on the seed alone."""
        ids = sorted(self.ids)
        random.Random(f"task folder {seed}").shuffle(ids)
        parts: dict[Split, list[Part]] = {}
        for place, split in enumerate(DEALT):
            share = ids[place :: len(DEALT)]
            size = items or max(1, len(share) // PARTS)
            parts[split] = [tuple(share[at : at + size]) for at in range(0, len(share), size)]
        return parts

    def asked(self, ids: Collection[str]) -> dict[str, bytes]:
        """The files of questions, with these alone."""
        return {name: each.only(ids) for name, each in self.questions.items()}

    def answered(self, ids: Collection[str]) -> dict[str, bytes]:
        """The private files, with the answers to these questions alone."""
        whole = set(self.ids)
        tables = {name: each.only(ids) for name, each in self.answers.items() if set(each.ids) == whole}
        return {**self.private, **tables}

    @property
    def shown(self) -> dict[str, bytes]:
        """The public files beside the questions."""
        return {name: content for name, content in self.public.items() if name not in self.questions}
