"""How an agent's rollouts ended: what went wrong in which of them, and the right answers where they may be shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sia_core.run.intervals import summary
from sia_core.run.record import INVALID, OUT_OF_BOUNDS, Batch
from sia_core.types import Instance, Split, Task

Failure = Literal["wrong", "crashed", "invalid"]
FAILURES: tuple[Failure, ...] = get_args(Failure)
"""The answer earned less than the best; the harness gave none; it gave one that cannot be scored."""

COUNTED = ("search", "gate", "sealed")
SHOWN: tuple[Split, ...] = ("public", "search")
"""Splits whose right answers people are shown. Whoever has seen those of another has seen the test."""

_UNUSABLE = frozenset({INVALID, OUT_OF_BOUNDS, "not-json", "answer-too-large"})


def failure_of(outcome: str, reward: float, best: float) -> Failure | None:
    """The failure of a rollout whose reward, of which more is better, can be at most ``best``; None if it is right."""
    if outcome == "ok":
        return "wrong" if reward < best else None
    return "invalid" if outcome in _UNUSABLE else "crashed"


def best_reward(metric: Mapping[str, Any], rewards: Iterable[float]) -> float:
    """The best reward that a run can record: by the metric's bounds, or the best of these where it has none."""
    if bounds := metric.get("bounds"):
        return float(-bounds[0] if metric.get("direction") == "minimize" else bounds[1])
    return max(rewards, default=0.0)


def outcomes(batches: Sequence[Batch], agents: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """The summary of each agent, by the name that it has here. Messages of sealed rollouts are no examples."""
    return {
        name: {
            "agent": agent,
            **summary(
                {**row, "message": ""} if batch.purpose == "sealed" else row
                for batch in batches
                if batch.agent == agent and batch.purpose in COUNTED
                for row in batch.rows
            ),
        }
        for name, agent in agents.items()
        if agent
    }


def right_answers(task: Task, split: Split) -> dict[str, Any]:
    """The right answers of a split by instance, as far as the task's labelled cases hold them; none where hidden."""
    return labels(task.public_dir((split,)), task.instances(split)) if split in SHOWN else {}


def labels(folder: Path, instances: Iterable[Instance]) -> dict[str, Any]:
    """The right answers of instances, as far as the labelled cases in a folder hold them."""
    path = folder / "cases.jsonl"
    if not path.is_file():
        return {}
    answers = {}
    inputs = {each.id: each.input for each in instances}
    for line in path.read_text(encoding="utf-8").split("\n"):
        case = json.loads(line or "{}")
        if (name := case.get("id")) in inputs:
            label = {key: value for key, value in case.items() if key not in {"id", "input", *inputs[name]}}
            if "answer" in label or len(label) == 1:
                answers[name] = label["answer"] if "answer" in label else next(iter(label.values()))
    return answers


@dataclass(frozen=True)
class Confusion:
    """An ``answer`` in the place of the one that was ``expected``, and the ``count`` of times that it was given."""

    expected: Any
    answer: Any
    count: int


def confusions(pairs: Sequence[tuple[Any, Any]]) -> list[Confusion]:
    """Right answers, each with the one that was given in its place: the most frequent pairs first."""
    counts = Counter((words(right), words(answer)) for right, answer in pairs)
    values = {(words(right), words(answer)): (right, answer) for right, answer in pairs}
    return [Confusion(*values[key], count) for key, count in counts.most_common()]


def words(value: Any) -> str:
    """An input that is one text, as it is; any other as JSON."""
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
