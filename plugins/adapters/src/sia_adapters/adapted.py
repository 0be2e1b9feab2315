"""Common base of the adapters: items are dealt out over the splits, and one class is task and verifier."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, RootModel

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.run.ledger import canonical
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Score, Split, VerifierContext

SPLITS: tuple[Split, ...] = ("public", "search", "gate", "sealed")
LEAST = 8

HARNESS = '''\
"""Asks the run's model, and answers what it says."""


def solve(instance, ctx):
    if not ctx.has_model:
        return ""
    said = instance.input
    prompt = said["prompt"] if "prompt" in said else "\\n".join(str(value) for value in said.values())
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return ctx.model(messages, temperature=0, max_tokens=1024)["choices"][0]["message"]["content"] or ""
'''


class Answer(RootModel[Any]):
    """Any JSON value; the reward function judges it."""


@dataclass(frozen=True)
class Item:
    """A harness's input, and the truth that only the reward function knows."""

    input: Mapping[str, Any]
    truth: Any

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(canonical(dict(self.input)).encode()).hexdigest()[:12]


class Adapted:
    """A task of items in equal parts for the four splits, by seed; the first of two equal inputs is kept.

    A subclass has a ``name`` and a ``brief``, and says what its items are and what an
    answer is worth. ``harness`` is the text of the first ``harness.py``.
    """

    name: ClassVar[str]
    brief: ClassVar[str]
    harness: ClassVar[str] = HARNESS
    kind: Kind = "solve"
    metric: Metric = Metric("reward")
    answer: type[BaseModel] = Answer
    failure_reward = 0.0
    limits = Limits()

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.verifier = OfferRef(self.name, {"seed": seed})

    def items(self) -> Iterable[Item]:
        """All items, in an order that does not matter."""
        raise NotImplementedError

    def worth(self, item: Item, answer: Any) -> float:
        """The reward of an answer: deterministic, and finite. Runs in the verifier's process."""
        raise NotImplementedError

    def judged(self, item: Item, answer: Any, ctx: VerifierContext) -> float:
        """The reward, for a task that draws as it judges: all chance comes from ``ctx.seed``."""
        return self.worth(item, answer)

    @cached_property
    def dealt(self) -> Mapping[Split, tuple[Item, ...]]:
        """The items of each split."""
        items = sorted({each.id: each for each in reversed(list(self.items()))}.values(), key=lambda each: each.id)
        if len(items) < LEAST:
            raise UsageError(
                f"task {self.name!r}: {len(items)} different items; at least {LEAST} are needed for four splits"
            )
        random.Random(f"{self.name} {self.seed}").shuffle(items)
        return {split: tuple(items[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all inputs and of the seed."""
        ids = [[each.id for each in self.dealt[split]] for split in SPLITS]
        return hashlib.sha256(canonical([self.name, ids]).encode()).hexdigest()

    def instances(self, split: Split) -> Sequence[Instance]:
        return [Instance(each.id, split, each.input) for each in self.dealt[split]]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder with ``cases.jsonl``: id, input and truth of each item of these splits."""
        if "sealed" in splits:
            raise UsageError("the sealed cases are for the report alone; ask for public, search or gate")
        items = [each for split in sorted(set(splits)) for each in self.dealt[split]]
        lines = [{"id": each.id, "input": each.input, "answer": each.truth} for each in items]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return write_once(cache_folder("adapted"), {"cases.jsonl": text.encode()})

    def seed_harness(self) -> HarnessTree:
        return HarnessTree({"harness.py": self.harness.encode()})

    def playbook(self) -> Playbook | None:
        return None

    @classmethod
    def judge(cls, seed: int = 0) -> Judge:
        """The verifier of this task, as its offer's factory."""
        return Judge(cls(seed))


class Judge:
    """Scores with the task's own reward function."""

    def __init__(self, task: Adapted) -> None:
        self._task = task
        self._items = {each.id: each for split in SPLITS for each in task.dealt[split]}

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        reward = float(self._task.judged(self._items[instance.id], answer, ctx))
        if not math.isfinite(reward):
            raise UsageError(
                f"task {self._task.name!r}: the reward of instance {instance.id} is {reward}, not a number"
            )
        return Score(reward)


def plain(value: Any) -> Any:
    """A value as JSON: what numpy and its like hold as lists and numbers, tuples as lists, dates as ISO 8601."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "M":  # its own items are integers where it counts in ns
        value = value.astype("datetime64[us]")
    if isinstance(value, date | time) and value == value:  # pandas' NaT, which is a date, equals nothing
        return value.isoformat()
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
