"""``sia show``: a run, or one of its candidates, in detail."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.cli import add_run, console, plain, print_json, run_argument, shown

if TYPE_CHECKING:
    from rich.console import Console

    from sia_core.ledger import Ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--candidate", metavar="G.K", help="candidate K of generation G, such as 0.1: its reason, diff and verdict"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from sia_core.ledger import Ledger
    from sia_core.report import build
    from sia_core.running import find_run

    folder = find_run(Path(options.runs_dir), options.name)
    with Ledger.read(folder) as ledger:
        if options.candidate:
            return _show_candidate(ledger, options.candidate, options.json)
        about = {**build(ledger), "outcomes": outcomes(ledger)}
    if options.json:
        print_json(about)
    else:
        _print_run(about, folder)
    return 0


def outcomes(ledger: Ledger) -> dict[str, dict[str, dict[str, int]]]:
    """How the rollouts of each agent ended: purpose -> agent -> outcome -> count. Sealed ones are left out."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for key, batch, _ in ledger.events("rollouts/"):
        _, purpose, agent, _ = key.split("/")
        if purpose != "sealed":
            ended = counts.setdefault(purpose, {}).setdefault(agent, Counter())
            ended.update(each["outcome"] for each in batch["rollouts"])
    return {purpose: {agent: dict(c) for agent, c in agents.items()} for purpose, agents in counts.items()}


def _print_run(about: dict[str, Any], folder: Path) -> None:
    out = console()
    state = f": {about['stopped']}" if about.get("stopped") else ""
    out.print(plain((about["run"], "bold"), f"  {about['status']}{state}"))
    for row in about["generations"]:
        verdict = ("accepted", "green") if row["accepted"] else ("rejected", "red")
        out.print(plain("\n", (f"{row['index']}.{row['candidate']} {row['name']}", "bold"), "  ", verdict))
        out.print(plain(f"  agent {row['agent'] or 'none'}, made of {row['parent']}"))
        out.print(plain(f"  why it was tried: {row['reason']}"))
        out.print(plain(f"  predicted {row['predicted']:+.4f}; {row['why']}"))
        if row["lever"] == "weights":
            _print_update(row, out)
        if ended := about["outcomes"].get("gate", {}).get(row["agent"] or ""):
            out.print(plain(f"  rollouts: {', '.join(f'{count} {name}' for name, count in sorted(ended.items()))}"))
    if about.get("answer"):
        out.print(plain("\n", ("best answer", "bold"), f" {about['answer']['id']}: {about['answer']['feedback']}"))
        out.print(shown(about["answer"]["answer"]), markup=False, highlight=False, soft_wrap=True)
    if about["generations"]:
        first = about["generations"][0]
        one = f"{first['index']}.{first['candidate']}"
        hint = f"\n`sia show {run_argument(folder)} --candidate {one}` prints a candidate's diff."
        out.print(plain(hint), soft_wrap=True)


def _print_update(row: dict[str, Any], out: Console) -> None:
    """What a weight update was chosen by, was going to take, and took."""
    out.print(plain(f"  selection table: {row['table']}"))
    for label, amounts in (("estimate", row["estimate"]), ("took", row["took"])):
        if amounts:
            counts = ", ".join(f"{amounts[kind]:,.0f} {kind}" for kind in ("rollouts", "tokens", "seconds"))
            out.print(plain(f"  {label}: {counts}, {amounts['memory'] / 2**20:,.0f} MiB of memory"))
    if row["stopped"]:
        out.print(plain(f"  stopped early: {row['stopped']}"))


def _show_candidate(ledger: Ledger, name: str, as_json: bool) -> int:
    from sia_core.errors import UsageError

    generation, _, index = name.partition(".")
    gated = ledger.get(f"generation/{generation}/gated/{index or 0}")
    if gated is None:
        known = [key.split("/") for key, _, _ in ledger.events("generation/") if "/gated/" in key]
        names = ", ".join(f"{part[1]}.{part[3]}" for part in known) or "none yet"
        raise UsageError(f"no candidate {name!r} in {ledger.folder.name}; there are: {names}")
    diff = ledger.get(f"generation/{generation}/diff/{index or 0}")
    text = diff[0] if diff else ""
    if as_json:
        print_json({**gated[0], "diff": text})
        return 0
    row = gated[0]
    print(shown(f"{row['name']}: {'accepted' if row['accepted'] else 'rejected'}"))
    print(shown(f"reason: {row['reason']}\npredicted: {row['predicted']:+.4f}\nverdict: {row['why']}\n"))
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        console().print(Syntax(shown(text), "diff", background_color="default"))
    else:  # as it is: `patch` may read it
        print(text, end="")
    return 0
