"""``sia report``: the result of a run."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.cli import add_run, console, plain, print_json, run_argument, shown

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--csv", action="store_true", help="for spreadsheets: a line a candidate")
    form.add_argument("--html", metavar="FILE", help="one page with pictures that loads nothing (takes sia-dashboard)")
    form.add_argument("--png", metavar="DIR", help="pictures for a paper (takes sia-dashboard[png])")


def run(options: argparse.Namespace) -> int:
    from sia_core.ledger import Ledger
    from sia_core.report import build
    from sia_core.running import find_run

    folder = find_run(Path(options.runs_dir), options.name)
    if options.html or options.png:
        _draw(folder, options)
        return 0
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    if options.json:
        print_json(report)
    elif options.csv:
        print(shown(as_csv(report)), end="")
    else:
        print_report(report, folder)
    return 0


def _draw(folder: Path, options: argparse.Namespace) -> None:
    """The report in pictures, by the view that is installed."""
    from sia_core.errors import UsageError
    from sia_core.plugins import Plugins
    from sia_core.views import view

    pictures = view(Plugins.discover())
    if options.png:
        written = pictures.plots(folder, Path(options.png))
        print(shown("\n".join(map(str, written)) or f"{folder.name} has nothing to draw yet."))
        return
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
    if report["sandbox_may_not_stop"]:
        named = ", ".join(report["sandbox_may_not_stop"])
        out.print(plain((f"Attacks that it may not stop (`sia doctor --attacks` tries them): {named}.", "yellow")))
    _print_candidates(report["generations"], out)
    if sorted_out := triaged(report.get("triage", {})):
        out.print(sorted_out)
    if report["smallest_gain"]:
        out.print(f"The gate was asked {report['gate_queries']} times; {sees(report)}.")
    _print_sealed(report, out)
    _print_robustness(report["robustness"], out)
    spent = ", ".join(
        f"{amount:,.{4 if kind == 'dollars' else 0}f} {kind}"
        for kind, amount in report["budget"]["spent"].items()
        if amount
    )
    out.print(plain(f"Spent: {spent or 'nothing yet'}."))
    name = run_argument(folder)
    if report.get("waiting"):
        what = "; ".join(report["waiting"])
        hint = f"It waits for your word: {what}. `sia resume {name}` takes --approve or --decline."
    elif report["status"] != "finished":
        hint = f"Not finished: `sia resume {name}` goes on with it."
    else:
        what = "best answer" if report.get("kind") == "discover" else "final agent"
        hint = f"`sia show {name}` tells more; `sia export {name} DIR` writes the {what}."
    out.print(plain(hint), soft_wrap=True)
    out.print(plain((str(folder), "dim")), soft_wrap=True)


def _print_candidates(rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """A line for each candidate; below, whole, why some were not compared."""
    from rich.table import Table

    table = Table("gen", "lever", "change", "predicted", "gate: change of the mean [95%]", "verdict")
    refused = []
    for row in rows:
        gate = row["gate"]
        verdict = ("accepted", "green") if row["accepted"] else (_rejected(row), "")
        table.add_row(
            str(row["index"]),
            plain(row["lever"] + (f" ({row['algorithm']})" if row["algorithm"] else "")),
            plain(row["name"]),
            f"{row['predicted']:+.3f}",
            plain(interval({"value": gate["delta"], "ci95": gate["ci95"]}, "+") if gate else ""),
            plain(verdict),
            end_section=row["accepted"],
        )
        if not gate:
            refused.append(plain(f"{row['index']}.{row['candidate']} {row['name']} was not compared: {row['why']}"))
    out.print(table)
    for line in refused:
        out.print(line)


def triaged(triage: Mapping[str, int]) -> str:
    """What was sorted out before a full evaluation; nothing where nothing was."""
    told = []
    if triage.get("checked"):
        told.append(f"of {triage['checked']} harnesses that were checked {triage['not_running']} did not run")
    if lost := triage.get("refused", 0) + triage.get("failed", 0):
        told.append(
            f"of {lost + triage['compared']} candidates {triage['refused']} were refused, {triage['failed']} failed"
        )
    return f"Triage: {'; '.join(told)}." if told else ""


def _rejected(row: Mapping[str, Any]) -> str:
    gate = row["gate"]
    if not gate:
        return "not compared"
    early = f" after {gate['n']:,} of {row['planned']:,}" if gate["n"] < row["planned"] else ""
    return f"rejected{early}"


def sees(gate: Mapping[str, Any]) -> str:
    """The smallest gain that the gate sees, and how many more instances would halve it."""
    halves = f"; {gate['to_halve']:,} more instances would halve that" if gate["to_halve"] else ""
    if gate.get("wins"):
        return f"with 80% power it sees who wins {gate['smallest_gain']:.0%} more of them than it loses{halves}"
    return f"with 80% power it sees a gain of {gate['smallest_gain']:.3f} or more{halves}"


def interval(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """A figure with its interval, in one cell; nothing where there is none yet."""
    if not value:
        return ""
    return "{0:{3}.4f} [{1:{3}.4f}, {2:{3}.4f}]".format(value["value"], *value["ci95"], sign)


def _print_sealed(report: Mapping[str, Any], out: Console) -> None:
    sealed, metric = report["sealed"], report["metric"]
    if not sealed:
        return
    about = f", on {sealed['final']['n']} instances that nothing in the loop saw, 95% intervals:"
    out.print(plain((f"Sealed {metric['name']}", "bold"), about))
    discovers = report.get("kind") == "discover"
    first, final = ("first agent's answer", "best answer") if discovers else ("initial agent", "final agent")
    out.print(plain(f"  {first}  {interval(sealed['initial'])}{_beside(sealed['initial'])}"))
    out.print(plain(f"  {final:{len(first)}}  ", (interval(sealed["final"]), "bold"), _beside(sealed["final"])))
    if discovers:
        answer = report["answer"]
        told = f"answer {answer['id']}, found by agent {answer['agent']}" if answer else "no valid answer was found"
        out.print(plain(f"  {told}"))
        _print_metrics(sealed, out)
    elif told := curse(sealed["final"]):
        out.print(told)
    for which in ("initial", "final"):
        if short := sealed[which].get("out_of_tokens", 0):
            line = f"{short} sealed rollouts of the {which} agent ran out of the tokens that the budget had left."
            out.print(plain((line, "yellow")))


def _print_metrics(sealed: Mapping[str, Any], out: Console) -> None:
    """What the verifier measured of both answers beside their reward."""
    first, best = (sealed[which].get("metrics", {}) for which in ("initial", "final"))
    if not best:
        return
    from rich.table import Table

    table = Table("measured on sealed", "first", "best")
    for name, value in best.items():
        table.add_row(plain(name), f"{first[name]:.4g}" if name in first else "", f"{value:.4g}")
    out.print(table)


def _beside(score: Mapping[str, Any]) -> str:
    """The gate score beside a sealed one, and the gap."""
    if "gap" not in score:  # a run of before scores stood side by side
        return ""
    return f"   gate {interval(score['gate'])}   gap {interval(score['gap'], '+')}"


def curse(final: Mapping[str, Any]) -> str:
    """What a gap between gate and sealed says, where it is beyond noise."""
    low, high = final["gap"]["ci95"] if "gap" in final else (0.0, 0.0)
    if low > 0:
        return (
            "The final agent does better on the gate than on sealed, beyond noise. It was chosen there, and what is "
            "chosen for its score was also lucky (the winner's curse): go by the sealed score."
        )
    if high < 0:
        return (
            "The final agent does better on sealed than on the gate, beyond noise: no winner's curse. "
            "For the sealed score it is set up with more labelled cases."
        )
    return ""


def _print_robustness(found: Mapping[str, Any] | None, out: Console) -> None:
    """How far the result holds: along the history, with one lever taken back, perturbed."""
    if not found:
        return
    from rich.table import Table

    if len(found["history"]) > 1:
        table = Table("incumbent", "gate", "sealed", "gap [95%]", title="Along the run", title_justify="left")
        for row in found["history"]:
            name = row["change"] or "initial agent"
            table.add_row(plain(name), interval(row["gate"]), interval(row), interval(row["gap"], "+"))
        out.print(table)
    searching = "" if found["history"] else ", searching on the gate"
    for row in found["taken_back"]:
        score = f"{row['value']:.4f}, a change of {interval(row['change'], '+')}"
        out.print(plain(f"  final agent with its {row['lever']} taken back{searching}: {score}"))
    for row in found["perturbed"]:
        which = "initial" if row["agent"] == found["history"][0]["agent"] else "final"
        score = f"{row['value']:.4f}, a change of {interval(row['change'], '+')}"
        out.print(plain(f"  {which} agent, {found['perturbation']}: {score}"))
    if found["left_out"]:
        out.print(plain(f"  {found['left_out']} more looks at robustness did not fit into the budget"))
