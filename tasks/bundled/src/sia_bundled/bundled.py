"""Base of the three tasks: where their files come from, how cases are dealt out, what a run sees of them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from sia_adapters.wheel import Wheel
from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.given_files import read_file
from sia_core.harness import HarnessTree
from sia_core.playbook import PLAYBOOK, Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Score, Split, VerifierContext

REQUIREMENT = "sia-agent==0.6.0"
WHEEL = "sia_agent-0.6.0-py3-none-any.whl"
SHA256 = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"

HERE = Path(__file__).parent
SPLITS: tuple[Split, ...] = ("public", "search", "gate", "sealed")
LEARNT_FROM: frozenset[Split] = frozenset({"public", "search"})
"""The splits that an improver learns from: feedback on them, and on no other, may name the truth."""


@dataclass(frozen=True)
class Case:
    """One thing to solve. ``key`` is what the files call it; ``id`` derives from its input."""

    key: str
    input: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        text = json.dumps(self.input, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Source:
    """The files of one task: in the wheel, or in a folder that holds the wheel or the task's own ``data``."""

    def __init__(self, task: str, data: str | None) -> None:
        self.task = task
        wheel = Wheel(REQUIREMENT, WHEEL, SHA256, task, "lawbench")
        if data is None:
            self.path = wheel.fetched()
            return
        folder = Path(data)
        self.path = folder if (folder / "data").is_dir() else folder / WHEEL
        if not self.path.exists():
            raise UsageError(
                f"{task}: --data {data} holds neither {WHEEL} nor a folder data; "
                "name a folder with either one, or leave --data out to have the data fetched"
            )
        if self.path.is_file():
            wheel.check(self.path)

    def read(self, name: str) -> bytes:
        """The bytes of one file below the task's ``data``; UsageError where it cannot be read."""
        try:
            if self.path.is_dir():
                return read_file(self.path, "data", *name.split("/"))
            with zipfile.ZipFile(self.path) as wheel:
                return wheel.read(f"sia/tasks/{self.task}/data/{name}")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{self.task}: cannot read {name} in {self.path}: {error}; "
                "remove --data to have the data fetched, or repair that copy"
            ) from None


def dealt(cases: Sequence[Case], shares: Mapping[Split, int], seed: int) -> dict[Split, tuple[Case, ...]]:
    """The cases by split, in proportion to the shares, by seed; in a split, in the order of their ids."""
    shuffled = sorted(cases, key=lambda case: case.id)
    random.Random(f"bundled {seed}").shuffle(shuffled)
    by_split: dict[Split, tuple[Case, ...]] = {}
    start = part = 0
    for split, share in shares.items():
        part += share
        end = round(len(shuffled) * part / sum(shares.values()))
        by_split[split] = tuple(sorted(shuffled[start:end], key=lambda case: case.id))
        start = end
    return by_split


class Data:
    """The cases of one task by split, and what is true of them."""

    task: ClassVar[str]

    def __init__(self, data: str | None, seed: int) -> None:
        self.source, self.seed = Source(self.task, data), seed

    @cached_property
    def cases(self) -> Mapping[Split, tuple[Case, ...]]:
        """The cases of each split, without what is true of them."""
        raise NotImplementedError

    def truth(self, split: Split) -> Mapping[str, Any]:
        """The true answers of a split's cases, by case key."""
        raise NotImplementedError

    def shown(self, case: Case, truth: Any) -> dict[str, Any]:
        """A labelled case, as harnesses may read it."""
        return {"id": case.id, "input": case.input, "answer": self.answer(truth)}

    def answer(self, truth: Any) -> Any:
        """The answer that is right."""
        raise NotImplementedError

    def right(self, answer: Any, truth: Any) -> bool:
        """Whether an answer is."""
        return bool(answer == self.answer(truth))


class Bundled:
    """A task over :class:`Data`; ``data`` is a folder with a local copy of the wheel or of the task's files."""

    kind: Kind = "solve"
    metric = Metric("accuracy")
    failure_reward = 0.0
    limits = Limits(solve_seconds=120.0)
    name: ClassVar[str]
    brief: ClassVar[str]
    answer: ClassVar[type[BaseModel]]
    data: ClassVar[type[Data]]
    folder: ClassVar[str]

    def __init__(self, data: str | None = None, seed: int = 0) -> None:
        # Other processes, with other working folders, are told of the same copy.
        data = os.path.abspath(data) if data is not None else None
        self._data = self.data(data, seed)
        self.verifier = OfferRef(self.name, {"data": data, "seed": seed})
        ids = [f"{split} {case.id}" for split in SPLITS for case in self._data.cases[split]]
        self.fingerprint = hashlib.sha256("\n".join([self.name, str(seed), *ids]).encode()).hexdigest()

    def instances(self, split: Split) -> Sequence[Instance]:
        return [Instance(case.id, split, case.input) for case in self._data.cases[split]]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder with ``cases.jsonl``: id, input and answer of each case of these splits."""
        if "sealed" in splits:
            raise UsageError(f"{self.name}: the sealed cases are for the report alone; ask for public, search or gate")
        lines = []
        for split in sorted(set(splits)):
            truth = self._data.truth(split) if self._data.cases[split] else {}
            lines += [self._data.shown(case, truth[case.key]) for case in self._data.cases[split]]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return write_once(cache_folder("bundled"), {"cases.jsonl": text.encode()})

    def seed_harness(self) -> HarnessTree:
        files = HarnessTree.from_folder(HERE / self.folder).files
        return HarnessTree({path: content for path, content in files.items() if path.startswith("harness.")})

    def playbook(self) -> Playbook | None:
        path = HERE / self.folder / PLAYBOOK
        return Playbook.from_toml(path) if path.is_file() else None


class Right:
    """1 where the answer is right, 0 elsewhere. ``data`` and ``seed`` are the task's own settings."""

    data: ClassVar[type[Data]]

    def __init__(self, data: str | None = None, seed: int = 0) -> None:
        self._data = self.data(data, seed)
        self._keys = {case.id: case.key for split in SPLITS for case in self._data.cases[split]}
        self._truth: dict[Split, Mapping[str, Any]] = {}

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Nothing is run, so ``ctx`` is not used."""
        if instance.split not in self._truth:
            self._truth[instance.split] = self._data.truth(instance.split)
        try:
            truth = self._truth[instance.split][self._keys[instance.id]]
        except KeyError:
            raise UsageError(
                f"{self._data.task}: no {instance.split} case {instance.id!r} in {self._data.source.path} with seed "
                f"{self._data.seed}; give the verifier the data and seed that the task has"
            ) from None
        right = self._data.right(answer, truth)
        feedback = "right" if right else f"wrong: it is {json.dumps(self._data.answer(truth), ensure_ascii=False)}"
        return Score(float(right), feedback=feedback if instance.split in LEARNT_FROM else "")
