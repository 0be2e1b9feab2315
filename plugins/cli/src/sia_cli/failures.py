"""``sia show --failures``: what an agent got wrong, with the right answers where people may see them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sia_cli.answer_text import short
from sia_cli.output import console, plain, print_json
from sia_core.errors import UsageError
from sia_core.plugins import Plugins
from sia_core.run.intervals import in_units
from sia_core.run.record import RunRecord
from sia_reading.artefact import recorded_task
from sia_reading.outcomes import Confusion, best_reward, confusions, failure_of, right_answers, words
from sia_runtime.answers import value_of

if TYPE_CHECKING:
    from rich.console import Console

    from sia_core.evidence import Rollout
    from sia_core.run.ledger import Ledger
    from sia_core.types import Split

MOST = 20
"""Failures, and rows of a table, that are printed for people."""

FEW_CLASSES = 20


@dataclass(frozen=True)
class Failed:
    """A rollout that failed. ``expected`` is a list of the right answer, empty where that is hidden or unknown."""

    failure: str
    instance: str
    input: Mapping[str, Any] | None
    expected: list[Any]
    answer: Any
    outcome: str
    reward: float
    feedback: str
    message: str


@dataclass(frozen=True)
class AnswerClass:
    """The cases with the same right answer."""

    expected: Any
    cases: int
    right: int
    reward: float


@dataclass(frozen=True)
class Failures:
    """The failures of an agent on a split, the worst first. ``left_out`` says why inputs are missing, if they are."""

    run: str
    agent: str
    split: str
    metric: str
    rollouts: int
    failures: Sequence[Failed]
    confusions: Sequence[Confusion] = ()
    classes: Sequence[AnswerClass] = ()
    left_out: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def show(ledger: Ledger, options: argparse.Namespace) -> int:
    """Print the failures that the options ask for."""
    report = failures(ledger, options.failures, options.agent or "final", options.split or "search", options.trust)
    if options.json:
        print_json(asdict(report))
    else:
        print_failures(report)
    return 0


def failures(ledger: Ledger, kind: str, agent: str, split: Split, trust: bool = False) -> Failures:
    """The failures of an agent on a split; UsageError where it was not rolled out there."""
    record = RunRecord(ledger)
    name = _agent(record, agent, split, ledger.folder.name)
    rollouts, metric = record.rollouts(split, name), record.run["metric"] if record.run else {}
    inputs, right, left_out = _cases(ledger, split, trust)
    best = best_reward(metric, (each.reward for each in rollouts))
    kinds = {id(each): failure_of(each.outcome, each.reward, best) for each in rollouts}
    failed = [
        Failed(
            failure=failure,
            instance=each.instance,
            input=inputs.get(each.instance),
            expected=[right[each.instance]] if each.instance in right else [],
            answer=value_of(each.answer),
            outcome=each.outcome,
            reward=in_units(metric.get("direction", ""), each.reward, "reward"),
            feedback=each.feedback,
            message=each.message,
        )
        for each in sorted(rollouts, key=lambda each: each.reward)
        if (failure := kinds[id(each)])
    ]
    rows = [each for each in failed if kind in ("all", each.failure)]
    direction = metric.get("direction", "")
    return Failures(
        ledger.folder.name,
        name,
        split,
        metric.get("name", "score"),
        len(rollouts),
        rows,
        _confusions(rows),
        _classes(rollouts, right, best, direction),
        left_out,
        dict(Counter(each.failure for each in failed)),
    )


def _agent(record: RunRecord, agent: str, split: str, run: str) -> str:
    """The id of an agent that was rolled out on a split."""
    first = (record.draft or "")[:12]
    rows = record.candidates()
    named = {f"{row['generation']}.{row['candidate']}": row["agent"] for row in rows if row["agent"]}
    final = next((row["agent"] for row in reversed(rows) if row["accepted"]), first)
    name = {"first": first, "final": final, **named}.get(agent, agent)
    there = dict.fromkeys(batch.agent for batch in record.batches(split))
    if name not in there:
        names = [key for key, each in {"first": first, **named}.items() if each in there]
        raise UsageError(
            f"no agent {agent!r} was rolled out on {split} in {run}; there are: {', '.join(names) or 'none yet'}"
        )
    return str(name)


def _cases(ledger: Ledger, split: Split, trust: bool) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """Inputs and right answers by instance, or why there are none."""
    try:
        task = recorded_task(ledger, Plugins.discover(), trust)
    except UsageError as error:  # its data have changed, or another user's run is not trusted yet
        return {}, {}, str(error)
    return {each.id: dict(each.input) for each in task.instances(split)}, right_answers(task, split), ""


def _confusions(failed: Sequence[Failed]) -> list[Confusion]:
    """Which answers stand in the place of which right ones, the most frequent first."""
    pairs = [(each.expected[0], each.answer) for each in failed if each.failure == "wrong" and each.expected]
    return confusions(pairs)


def _classes(rollouts: Sequence[Rollout], right: Mapping[str, Any], best: float, direction: str) -> list[AnswerClass]:
    """The score of each right answer, where there are few and each occurs twice on average, or more often."""
    groups: dict[str, list[Rollout]] = {}
    values: dict[str, Any] = {}
    for each in rollouts:
        if each.instance in right:
            name = words(right[each.instance])
            values[name] = right[each.instance]
            groups.setdefault(name, []).append(each)
    if not 2 <= len(groups) <= min(FEW_CLASSES, sum(map(len, groups.values())) // 2):
        return []
    return [
        AnswerClass(
            values[name],
            len(group),
            sum(failure_of(each.outcome, each.reward, best) is None for each in group),
            in_units(direction, fmean(each.reward for each in group), "reward"),
        )
        for name, group in sorted(groups.items(), key=lambda item: fmean(each.reward for each in item[1]))
    ]


def print_failures(report: Failures) -> None:
    """Print them for people."""
    out = console()
    counts = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items()) or "none"
    about = f"  agent {report.agent}, {report.rollouts:,} rollouts on {report.split}; failures: {counts}"
    out.print(plain((report.run, "bold"), about))
    if report.left_out:
        out.print(plain((f"Inputs and right answers are left out: {report.left_out}", "yellow")), soft_wrap=True)
    for each in report.failures[:MOST]:
        _print_failed(each, report.metric, out)
    if len(report.failures) > MOST:
        out.print(f"\n{len(report.failures) - MOST:,} more; --json prints all.")
    _print_tables(report, out)


def _print_failed(each: Failed, metric: str, out: Console) -> None:
    ended = each.failure if each.outcome in ("ok", each.failure) else f"{each.failure} ({each.outcome})"
    out.print(plain("\n", (ended, "bold"), f"  {short(each.instance)}  {metric} {each.reward:g}"), soft_wrap=True)
    rows = {
        "input": words(each.input) if each.input is not None else "",
        "expected": words(each.expected[0]) if each.expected else "",
        "answer": words(each.answer) if each.outcome == "ok" or each.answer is not None else "",
        "feedback": each.feedback,
        "message": each.message,
    }
    for label, text in rows.items():
        if text:
            out.print(plain(f"  {label:8}  {short(text)}"), soft_wrap=True)


def _print_tables(report: Failures, out: Console) -> None:
    """Print which answers were taken for which, and the score of each right answer."""
    if any(each.count > 1 for each in report.confusions):
        table = Table("expected", "answered", "times", title="Most frequent mistakes", title_justify="left")
        for row in report.confusions[:MOST]:
            table.add_row(*(plain(short(words(value))) for value in (row.expected, row.answer)), f"{row.count:,}")
        out.print("\n", table)
    if report.classes:
        table = Table("right answer", "cases", "right", report.metric, title="By right answer", title_justify="left")
        for each in report.classes:
            table.add_row(
                plain(short(words(each.expected))), f"{each.cases:,}", f"{each.right:,}", f"{each.reward:.4f}"
            )
        out.print("\n", table)
