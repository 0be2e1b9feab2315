"""``sia report``: the result of a run."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_cli.options import add_run
from sia_cli.output import print_json, shown
from sia_cli.report_text import print_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--csv", action="store_true", help="for spreadsheets: a line a candidate")
    form.add_argument("--html", metavar="FILE", help="one page with pictures that loads nothing (takes sia-dashboard)")
    form.add_argument("--png", metavar="DIR", help="pictures for a paper (takes sia-dashboard[png])")


def run(options: argparse.Namespace) -> int:
    from sia_core.run.ledger import Ledger, readable
    from sia_core.run.run_folders import find_run
    from sia_reading.report import build

    folder = find_run(Path(options.runs_dir), options.name)
    if options.html or options.png:
        _draw(folder, options)
        return 0
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    with readable(folder):
        if options.json:
            print_json(report)
        elif options.csv:
            print(shown(as_csv(report)), end="")
        else:
            print_report(report, folder)
    return 0


def _draw(folder: Path, options: argparse.Namespace) -> None:
    """The report in pictures, by the view that is installed."""
    from sia_cli.installed_view import view
    from sia_core.errors import UsageError
    from sia_core.plugins import Plugins
    from sia_core.run.ledger import readable

    pictures = view(Plugins.discover())
    if options.png:
        with readable(folder):
            written = pictures.plots(folder, Path(options.png))
        print(shown("\n".join(map(str, written)) or f"{folder.name} has nothing to draw yet."))
        return
    with readable(folder):
        page = pictures.page(folder)
    try:
        Path(options.html).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {options.html}: {error.strerror}") from None
    print(shown(f"Wrote {options.html}."))


def as_csv(report: Mapping[str, Any]) -> str:
    """A line a candidate, with what its gate said; a line break of a run's text ends no line."""
    out = io.StringIO()
    plain_keys = (
        "index",
        "candidate",
        "lever",
        "algorithm",
        "name",
        "parent",
        "agent",
        "predicted",
        "gain",
        "accepted",
    )
    gate_keys = ("incumbent", "candidate", "delta", "n")
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["run", *plain_keys, *(f"gate_{key}" for key in gate_keys), "gate_low", "gate_high", "why"])
    for row in report["generations"]:
        gate = row["gate"]
        figures = [*(gate[key] for key in gate_keys), *gate["ci95"]] if gate else [""] * 6
        values = (report["run"], *(row[key] for key in plain_keys), *figures, row["why"])
        lines.writerow([_cell(value) for value in values])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A value for a spreadsheet. Text that it would take for a formula is kept as text."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
