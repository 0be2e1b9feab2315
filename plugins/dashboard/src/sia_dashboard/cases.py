"""Two runs case by case: which cases the final agent of one gets right and that of the other does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sia_dashboard.bounds import SHOWN
from sia_dashboard.records import Case, Record, Row

SPLITS = ("search", "gate")
"""Splits whose rollouts are compared. Sealed ones are not shown one by one."""


@dataclass(frozen=True)
class Pair:
    """A case that both agents answered. ``case`` holds the right answer only where both runs searched on it."""

    case: Case
    first: Row
    second: Row
    splits: str


@dataclass(frozen=True)
class Group:
    """The cases on which one run's agent does better than the other's, the first ones only; ``count`` has all."""

    title: str
    count: int
    pairs: Sequence[Pair]


def compare(first: Record, second: Record) -> dict[str, Any]:
    """The cases of two runs by who gets them; ``why`` says so where they cannot be compared.

    A case counts as right where each of its rollouts is. Where neither agent is right on any, or the metric has no
    bounds, the mean scores decide.
    """
    metrics = [
        {key: record.report()["metric"].get(key) for key in ("name", "direction", "bounds")}
        for record in (first, second)
    ]
    if metrics[0] != metrics[1]:
        return {"why": "Their metrics are not the same, so their cases do not compare."}
    answered = [_answered(record) for record in (first, second)]
    common = [name for name in answered[0] if name in answered[1]]
    shared = [name for name in common if _same(first, second, answered[0][name][0], answered[1][name][0])]
    if not shared:
        return {"why": "Their final agents have answered no case in common outside the sealed split."}
    both = [(name, answered[0][name], answered[1][name]) for name in shared]
    by_right = any(_right(rows) for _, *sides in both for rows in sides)
    sign = -1 if metrics[0]["direction"] == "minimize" else 1
    groups: dict[str, list[tuple[Row, Row]]] = {"first": [], "second": [], "equal": []}
    for _, ours, theirs in both:
        left, right = (float(_right(rows)) if by_right else sign * _mean(rows) for rows in (ours, theirs))
        groups["first" if left > right else "second" if right > left else "equal"].append((ours[0], theirs[0]))
    verb = "is right" if by_right else "scores better"
    names = [(first.name, "first"), (second.name, "second")]
    return {
        "why": "",
        "total": len(shared),
        "differ": len(common) - len(shared),
        "by_right": by_right,
        "both_right": sum(_right(ours) and _right(theirs) for _, ours, theirs in both),
        "equal": len(groups["equal"]),
        "names": [first.name, second.name],
        "groups": [
            Group(
                f"Only {name} {verb}" if by_right else f"{name} {verb}",
                len(groups[key]),
                [_pair(first, second, *rows) for rows in groups[key][:SHOWN]],
            )
            for name, key in names
        ],
    }


def final_agent(record: Record) -> str:
    """The id of the agent that a run ended with, or has by now."""
    accepted = [row["agent"] for row in record.report()["generations"] if row["accepted"]]
    return accepted[-1] if accepted else record.first


def _answered(record: Record) -> dict[str, list[Row]]:
    agent = final_agent(record)
    by_instance: dict[str, list[Row]] = {}
    for row in record.rows():
        if row.agent == agent and row.purpose in SPLITS:
            by_instance.setdefault(row.instance, []).append(row)
    return by_instance


def _same(first: Record, second: Record, ours: Row, theirs: Row) -> bool:
    """Whether two cases with one id ask the same, as far as their inputs are known."""
    inputs = first.case(ours.purpose, ours.instance).input, second.case(theirs.purpose, theirs.instance).input
    return not all(inputs) or inputs[0] == inputs[1]


def _pair(first: Record, second: Record, ours: Row, theirs: Row) -> Pair:
    case = first.case(ours.purpose, ours.instance)
    other = second.case(theirs.purpose, theirs.instance)
    # A case on which one run searched may be on the gate of the other, where right answers are not shown.
    expected = case.expected or other.expected if ours.purpose == theirs.purpose == "search" else ()
    splits = " / ".join(dict.fromkeys((ours.purpose, theirs.purpose)))
    return Pair(Case(case.input or other.input, expected), ours, theirs, splits)


def _right(rows: Sequence[Row]) -> bool:
    return all(row.ended == "right" for row in rows)


def _mean(rows: Sequence[Row]) -> float:
    return fmean(row.reward for row in rows)
