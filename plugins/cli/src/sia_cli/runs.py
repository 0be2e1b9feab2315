"""``sia runs``: the runs of a folder."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from sia_cli.options import add_runs_dir, runs_dir_argument, runs_folder
from sia_cli.output import console, plain, print_json, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from rich.table import Table

    from sia_core.errors import LedgerError
    from sia_core.run.ledger import Ledger, readable
    from sia_core.run.run_folders import runs_in
    from sia_reading.report import build

    reports, lines = [], []
    for folder in runs_in(runs_folder(options)):
        try:
            with Ledger.read(folder) as ledger, readable(folder):
                report = build(ledger)
                lines.append(_line(report))
        except LedgerError as error:
            report = {"run": folder.name, "status": "unreadable", "cause": str(error), "generations": []}
            lines.append(_line(report))
        reports.append(report)
    if options.json:
        keys = ("run", "status", "task", "levers", "improver", "seed", "sealed", "cause")
        print_json([{key: report.get(key) for key in keys} for report in reports])
        return 0
    if not reports:
        command = shlex.join(["sia", "run", "--plugin", "lawbench", *runs_dir_argument(options)])
        print(shown(f"No run in {options.runs_dir}. Start one with `{command}`."))
        return 0
    out = console()
    table = Table("run", "status", "task", "levers", "seed", "candidates", "accepted", "initial", "final")
    for line in lines:
        table.add_row(*map(plain, line))
    out.print(table)
    for report in reports:
        if "cause" in report:
            out.print(plain(f"{report['run']}: {report['cause']}"))
    return 0


def _line(report: Mapping[str, Any]) -> tuple[str, ...]:
    """A run's line of the table."""
    from sia_cli.figures import interval

    sealed, rows = report.get("sealed") or {}, report["generations"]
    accepted = sum(row["accepted"] for row in rows)
    levers, seed = ",".join(report.get("levers", [])), str(report.get("seed", ""))
    about = (report["run"], report["status"], report.get("task", ""), levers, seed, str(len(rows)), str(accepted))
    return (*about, *(interval(sealed.get(which)) for which in ("initial", "final")))
