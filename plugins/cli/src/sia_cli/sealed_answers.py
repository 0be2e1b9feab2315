"""Answers of a run's first and final agent on sealed instances, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sia_cli.answer_text import short
from sia_cli.output import console, plain
from sia_core.errors import UsageError
from sia_reading.outcomes import words
from sia_runtime.answers import value_of

if TYPE_CHECKING:
    from sia_core.evidence import Rollout
    from sia_core.run.ledger import Ledger
    from sia_core.types import Metric, Task


@dataclass(frozen=True)
class Answered:
    """A question of the sealed split, and the rollouts of the first and the final agent on it."""

    instance: str
    question: Any
    rollouts: Mapping[str, Rollout]


def answered(ledger: Ledger, task: Task, count: int) -> list[Answered]:
    """The first questions of the sealed split; UsageError where the run has no answers to them yet."""
    from sia_core.run.record import RunRecord

    record = RunRecord(ledger)
    first = next((batch.agent for batch in record.batches("sealed")), None)
    if first is None:
        raise UsageError(f"{ledger.folder.name} has no answers to sealed questions yet; they come with its report")
    final = next((row["agent"] for row in reversed(record.candidates()) if row["accepted"]), first)
    ends = {
        who: {each.instance: each for each in record.rollouts("sealed", agent)}
        for who, agent in (("first agent", first), ("final agent", final))
    }
    return [
        Answered(each.id, each.input, {who: rollouts[each.id] for who, rollouts in ends.items()})
        for each in task.instances("sealed")
        if all(each.id in rollouts for rollouts in ends.values())
    ][:count]


def print_answers(rows: Sequence[Answered], metric: Metric) -> None:
    """Print them for people."""
    out = console()
    for number, row in enumerate(rows, 1):
        out.print(plain("\n", (f"question {number}", "bold"), f"  {short(words(row.question))}"), soft_wrap=True)
        for who, rollout in row.rollouts.items():
            answer = words(value_of(rollout.answer)) if rollout.answer is not None else f"none: {rollout.outcome}"
            earned = metric.reward(rollout.reward)
            out.print(plain(f"  {who}  {short(answer)}  ({metric.name} {earned:g})"), soft_wrap=True)


def to_json(rows: Sequence[Answered], metric: Metric) -> list[dict[str, Any]]:
    """Them for programs."""
    return [
        {
            "instance": row.instance,
            "question": row.question,
            **{
                who.partition(" ")[0]: {"answer": value_of(each.answer), metric.name: metric.reward(each.reward)}
                for who, each in row.rollouts.items()
            },
        }
        for row in rows
    ]
