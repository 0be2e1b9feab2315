"""``sia report``: the result of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.cli import add_run, console, plain, print_json, run_argument

if TYPE_CHECKING:
    from rich.console import Console


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
    out = console()
    if "task" not in report:
        out.print(plain(f"{report['run']} was stopped before its first step; start it again with `sia run`."))
        return
    levers = ", ".join(report["levers"])
    out.print(plain("\n", (report["run"], "bold"), f"  {report['task']}, levers: {levers}, seed {report['seed']}, "
                    f"improver {report['improver']}, sandbox {report['sandbox']}"))  # fmt: skip
    if report["sandbox_lacks"]:
        out.print(plain((f"This sandbox does not guarantee: {', '.join(report['sandbox_lacks'])}.", "yellow")))
    _print_candidates(report["generations"], out)
    if report["smallest_gain"]:
        out.print(
            f"The gate was asked {report['gate_queries']} times; "
            f"with 80% power it sees a gain of {report['smallest_gain']:.3f} or more."
        )
    _print_sealed(report, out)
    _print_robustness(report["robustness"], out)
    spent = ", ".join(
        f"{amount:,.{4 if kind == 'dollars' else 0}f} {kind}"
        for kind, amount in report["budget"]["spent"].items()
        if amount
    )
    out.print(plain(f"Spent: {spent or 'nothing yet'}."))
    name = run_argument(folder)
    if report["status"] != "finished":
        hint = f"Not finished: `sia resume {name}` goes on with it."
    else:
        hint = f"`sia show {name}` tells more; `sia export {name} DIR` writes the final agent."
    out.print(plain(hint), soft_wrap=True)
    out.print(plain((str(folder), "dim")), soft_wrap=True)


def _print_candidates(rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """A line for each candidate; below, whole, why some were not compared."""
    from rich.table import Table

    table = Table("gen", "lever", "change", "predicted", "gate: change of the mean [95%]", "verdict")
    refused = []
    for row in rows:
        gate = row["gate"]
        verdict = ("accepted", "green") if row["accepted"] else ("rejected" if gate else "not compared", "")
        table.add_row(
            str(row["index"]),
            plain(row["lever"] + (f" ({row['algorithm']})" if row["algorithm"] else "")),
            plain(row["name"]),
            f"{row['predicted']:+.3f}",
            plain(signed({"value": gate["delta"], "ci95": gate["ci95"]}) if gate else ""),
            plain(verdict),
            end_section=row["accepted"],
        )
        if not gate:
            refused.append(plain(f"{row['index']}.{row['candidate']} {row['name']} was not compared: {row['why']}"))
    out.print(table)
    for line in refused:
        out.print(line)


def interval(value: Mapping[str, Any] | None) -> str:
    """A sealed score with its interval, in one cell."""
    if not value:
        return ""
    return f"{value['value']:.4f} [{value['ci95'][0]:.4f}, {value['ci95'][1]:.4f}]"


def _print_sealed(report: Mapping[str, Any], out: Console) -> None:
    sealed, metric = report["sealed"], report["metric"]
    if not sealed:
        return
    about = f", on {sealed['final']['n']} instances that nothing in the loop saw, 95% intervals:"
    out.print(plain((f"Sealed {metric['name']}", "bold"), about))
    out.print(plain(f"  initial agent  {interval(sealed['initial'])}"))
    out.print(plain("  final agent    ", (interval(sealed["final"]), "bold")))


def _print_robustness(found: Mapping[str, Any] | None, out: Console) -> None:
    """How far the result holds: along the history, with one lever taken back, perturbed."""
    if not found:
        return
    from rich.table import Table

    if len(found["history"]) > 1:
        table = Table("incumbent", "gate", "sealed", "gap [95%]", title="Along the run", title_justify="left")
        for row in found["history"]:
            name = row["change"] or "initial agent"
            table.add_row(plain(name), interval(row["gate"]), interval(row["sealed"]), signed(row["gap"]))
        out.print(table)
    for row in found["taken_back"]:
        score = f"{row['sealed']['value']:.4f}, a change of {signed(row['change'])}"
        out.print(plain(f"  final agent with its {row['lever']} taken back: {score}"))
    for row in found["perturbed"]:
        which = "initial" if row["agent"] == found["history"][0]["agent"] else "final"
        score = f"{row['sealed']['value']:.4f}, a change of {signed(row['change'])}"
        out.print(plain(f"  {which} agent, {found['perturbation']}: {score}"))
    if found["left_out"]:
        out.print(plain(f"  {found['left_out']} more looks at robustness did not fit into the budget"))


def signed(value: Mapping[str, Any]) -> str:
    """A difference with its interval, in one cell."""
    low, high = value["ci95"]
    return f"{value['value']:+.4f} [{low:+.4f}, {high:+.4f}]"
