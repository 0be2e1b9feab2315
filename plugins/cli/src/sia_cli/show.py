"""``sia show``: a run, or one of its candidates, in detail."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_cli.configuration import count
from sia_cli.figures import better, interval, mark
from sia_cli.options import add_run, add_trust, run_argument
from sia_cli.output import console, plain, print_json, shown
from sia_cli.report_text import model_lines, outcome_lines

if TYPE_CHECKING:
    from rich.console import Console

    from sia_core.run.ledger import Ledger


KINDS = ("all", "wrong", "crashed", "invalid")
"""Failures that can be asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--candidate", metavar="G.K", help="candidate K of generation G, such as 0.1: its reason, diff and verdict"
    )
    parser.add_argument(
        "--answers",
        type=count,
        metavar="N",
        help="the first N questions of the sealed split, and what the first and the final agent answered",
    )
    parser.add_argument(
        "--failures",
        nargs="?",
        const="all",
        choices=KINDS,
        metavar="KIND",
        help="what an agent got wrong, the worst first, with the right answers of search; KIND is wrong, crashed or "
        "invalid (default: all)",
    )
    parser.add_argument(
        "--agent",
        metavar="AGENT",
        help="with --failures: first, final, a candidate such as 0.1, or an agent's id (default: final)",
    )
    parser.add_argument(
        "--split",
        choices=("search", "gate"),
        help="with --failures (default: search); right answers are of search alone",
    )
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from sia_core.errors import UsageError
    from sia_core.run.ledger import Ledger, readable
    from sia_core.run.run_folders import find_run
    from sia_reading.report import build

    if options.failures is None and (options.agent or options.split):
        raise UsageError("--agent and --split choose among failures; give --failures too")
    folder = find_run(Path(options.runs_dir), options.name)
    with Ledger.read(folder) as ledger, readable(folder):
        if options.candidate:
            return _show_candidate(ledger, options.candidate, options.json)
        if options.failures:
            from sia_cli.failures import show

            return show(ledger, options)
        if options.answers is not None:
            return _show_answers(ledger, options.answers, options.trust, options.json)
        about = {**build(ledger), "rollouts": rollouts(ledger)}
        if options.json:
            print_json(about)
        else:
            _print_run(about, folder)
    return 0


def rollouts(ledger: Ledger) -> dict[str, dict[str, dict[str, int]]]:
    """How the rollouts of each agent ended: purpose -> agent -> outcome -> count. Sealed ones are left out."""
    from sia_core.run.record import RunRecord

    counts: dict[str, dict[str, Counter[str]]] = {}
    for batch in RunRecord(ledger).batches():
        if batch.purpose != "sealed":
            ended = counts.setdefault(batch.purpose, {}).setdefault(batch.agent, Counter())
            ended.update(each["outcome"] for each in batch.rows)
    return {purpose: {agent: dict(c) for agent, c in agents.items()} for purpose, agents in counts.items()}


def _print_run(about: dict[str, Any], folder: Path) -> None:
    out = console()
    state = f": {about['stopped']}" if about.get("stopped") else ""
    out.print(plain((about["run"], "bold"), f"  {about['status']}{state}"))
    if note := better(about.get("metric", {})):
        out.print(plain(note))
    for line in outcome_lines(about.get("outcomes", {})):
        out.print(line)
    if spent := model_lines(about.get("models", ())):
        out.print(plain("\n".join(["Asked to improve:", *spent])), soft_wrap=True)
    for row in about["generations"]:
        verdict = mark(row["outcome"])
        out.print(plain("\n", (f"{row['index']}.{row['candidate']} {row['name']}", "bold"), "  ", verdict))
        out.print(plain(f"  agent {row['agent'] or 'none'}, made of {row['parent']}"))
        out.print(plain(f"  why it was tried: {row['reason']}"))
        out.print(plain(f"  predicted gain {row['predicted']:+.4f}; {row['why']}"))
        if row["against"]:
            out.print(plain(f"  compared with agent {row['against']}{_beside_parent(row)}"))
        _print_pull(row, out)
        if ended := about["rollouts"].get("gate", {}).get(row["agent"] or ""):
            out.print(plain(f"  rollouts: {', '.join(f'{count} {name}' for name, count in sorted(ended.items()))}"))
    if about.get("answer"):
        out.print(plain("\n", ("best answer", "bold"), f" {about['answer']['id']}: {about['answer']['feedback']}"))
        out.print(shown(about["answer"]["answer"]), markup=False, highlight=False, soft_wrap=True)
    if about["generations"]:
        first = about["generations"][0]
        one = f"{first['index']}.{first['candidate']}"
        hint = f"\n`sia show {run_argument(folder)} --candidate {one}` prints a candidate's diff."
        out.print(plain(hint), soft_wrap=True)


def _beside_parent(row: Mapping[str, Any]) -> str:
    change = row["against_parent"]
    return f"; against its parent, {interval(change, '+')} over {change['n']:,} instances" if change else ""


def _print_pull(row: dict[str, Any], out: Console) -> None:
    """Print the reason for pulling a lever, its estimated cost and its actual cost."""
    if row["table"]:
        out.print(plain(f"  selection table: {row['table']}"))
    for label, amounts in (("estimate", row["estimate"]), ("took", row["took"])):
        counts = [f"{amounts[kind]:,.0f} {kind}" for kind in ("rollouts", "tokens", "seconds") if kind in amounts]
        if "memory" in amounts:
            counts.append(f"{amounts['memory'] / 2**20:,.0f} MiB of memory")
        if counts:
            out.print(plain(f"  {label}: {', '.join(counts)}"))
    if row["stopped"]:
        out.print(plain(f"  stopped early: {row['stopped']}"))


def _show_answers(ledger: Ledger, count: int, trust: bool, as_json: bool) -> int:
    from sia_cli.sealed_answers import answered, print_answers, to_json
    from sia_core.plugins import Plugins
    from sia_reading.artefact import recorded_task

    task = recorded_task(ledger, Plugins.discover(), trust)
    rows = answered(ledger, task, count)
    if as_json:
        print_json(to_json(rows, task.metric))
    else:
        print_answers(rows, task.metric)
    return 0


def _show_candidate(ledger: Ledger, name: str, as_json: bool) -> int:
    from sia_core.errors import UsageError
    from sia_core.run.record import RunRecord
    from sia_reading.possible import to_read
    from sia_runtime.sandbox_hints import with_hints

    record = RunRecord(ledger)
    metric = record.run["metric"] if record.run else {}
    rows = {f"{row['generation']}.{row['candidate']}": row for row in record.candidates()}
    row = rows.get(name if "." in name else f"{name}.0")
    if row is None:
        raise UsageError(f"no candidate {name!r} in {ledger.folder.name}; there are: {', '.join(rows) or 'none yet'}")
    text = record.diff(row["generation"], row["candidate"])
    view = to_read(metric.get("direction", ""), row, metric.get("bounds"))
    if as_json:
        print_json({**view, "diff": text})
        return 0
    verdict = "\n".join(with_hints(view["why"]))
    print(shown(f"{row['name']}: {mark(row['outcome'])[0]}"))
    print(shown(f"reason: {row['reason']}\npredicted gain: {row['predicted']:+.4f}\nverdict: {verdict}\n"))
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        console().print(Syntax(shown(text), "diff", background_color="default"))
    else:  # as it is: `patch` may read it
        print(text, end="")
    return 0
