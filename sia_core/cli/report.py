"""``sia report``: the result of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.cli import add_run, console, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from sia_core.ledger import Ledger
    from sia_core.report import build
    from sia_core.running import find_run

    folder = find_run(Path(options.runs_dir), options.name)
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    if options.json:
        print_json(report)
    else:
        print_report(report, folder)
    return 0


def print_report(report: Mapping[str, Any], folder: Path) -> None:
    """The report for people."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    if "task" not in report:
        out.print(f"{report['run']} was stopped before its first step.")
        return
    table = Table("gen", "lever", "change", "predicted", "gate: change of the mean [95%]", "verdict")
    for row in report["generations"]:
        gate = row["gate"]
        table.add_row(
            str(row["index"]),
            row["lever"] + (f" ({row['algorithm']})" if row["algorithm"] else ""),
            escape(row["name"]),
            f"{row['predicted']:+.3f}",
            f"{gate['delta']:+.4f} [{gate['ci95'][0]:+.4f}, {gate['ci95'][1]:+.4f}]" if gate else "",
            "[green]accepted[/green]" if row["accepted"] else "rejected" if gate else escape(row["why"][:60]),
            end_section=row["accepted"],
        )
    levers = ", ".join(report["levers"])
    out.print(f"\n[bold]{report['run']}[/bold]  {report['task']}, levers: {levers}, seed {report['seed']}, "
                  f"improver {report['improver']}, sandbox {report['sandbox']}")  # fmt: skip
    if report["sandbox_lacks"]:
        out.print(f"[yellow]This sandbox does not guarantee: {', '.join(report['sandbox_lacks'])}.[/yellow]")
    out.print(table)
    if report["smallest_gain"]:
        out.print(
            f"The gate was asked {report['gate_queries']} times; "
            f"with 80% power it sees a gain of {report['smallest_gain']:.3f} or more."
        )
    _print_sealed(report, out)
    spent = report["budget"]["spent"]
    out.print(f"Spent: {', '.join(f'{amount:,.0f} {kind}' for kind, amount in spent.items() if amount)}.")
    if report["status"] != "finished":
        out.print(f"Not finished: `sia resume {report['run']}` goes on with it.")
    else:
        out.print(f"`sia show {report['run']}` tells more; `sia export {report['run']} DIR` writes the final agent.")
    out.print(f"[dim]{escape(str(folder))}[/dim]")


def interval(value: Mapping[str, Any] | None) -> str:
    """A sealed score with its interval, in one cell."""
    if not value:
        return ""
    return f"{value['value']:.4f} [{value['ci95'][0]:.4f}, {value['ci95'][1]:.4f}]"


def _print_sealed(report: Mapping[str, Any], out: Any) -> None:
    sealed, metric = report["sealed"], report["metric"]
    if not sealed:
        return
    n = sealed["final"]["n"]
    out.print(f"[bold]Sealed {metric['name']}[/bold], on {n} instances that nothing in the loop saw, 95% intervals:")
    out.print(f"  initial agent  {interval(sealed['initial'])}")
    out.print(f"  final agent    [bold]{interval(sealed['final'])}[/bold]")
