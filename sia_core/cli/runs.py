"""``sia runs``: the runs of a folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from sia_core.cli import RUNS_DIR, add_runs_dir, console, plain, print_json, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from rich.table import Table

    from sia_core.cli.report import interval
    from sia_core.errors import LedgerError
    from sia_core.ledger import Ledger
    from sia_core.report import build
    from sia_core.running import runs_in

    reports = []
    for folder in runs_in(Path(options.runs_dir)):
        try:
            with Ledger.read(folder) as ledger:
                reports.append(build(ledger))
        except LedgerError as error:
            reports.append({"run": folder.name, "status": "unreadable", "cause": str(error), "generations": []})
    if options.json:
        keys = ("run", "status", "task", "levers", "improver", "seed", "sealed", "cause")
        print_json([{key: report.get(key) for key in keys} for report in reports])
        return 0
    if not reports:
        where = "" if options.runs_dir == RUNS_DIR else f" --runs-dir {shlex.quote(options.runs_dir)}"
        print(shown(f"No run in {options.runs_dir}. Start one with `sia run --plugin lawbench{where}`."))
        return 0
    out = console()
    table = Table("run", "status", "task", "levers", "seed", "candidates", "accepted", "initial", "final")
    for report in reports:
        sealed, rows = report.get("sealed") or {}, report["generations"]
        accepted = sum(row["accepted"] for row in rows)
        levers, seed = ",".join(report.get("levers", [])), str(report.get("seed", ""))
        about = (report["run"], report["status"], report.get("task", ""), levers, seed, str(len(rows)), str(accepted))
        scores = (interval(sealed.get(which)) for which in ("initial", "final"))
        table.add_row(*map(plain, (*about, *scores)))
    out.print(table)
    for report in reports:
        if "cause" in report:
            out.print(plain(f"{report['run']}: {report['cause']}"))
    return 0
