"""``sia compare``: arms side by side at one budget, and which lever earned what."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.cli import console, plain, print_json, shown
from sia_core.cli.run import LOCAL, add_backend, add_policy, add_sandbox, add_task

if TYPE_CHECKING:
    from rich.console import Console

    from sia_core.comparison.arms import Cell, Design

PARTS = {"rollouts": (6, 1 / 2), "verifications": (2, 1 / 6)}
"""What a quick comparison pays for beside the report: looks at an agent, and how much of an update by default.

Less where answers are evaluated on the way, since such an answer is a program that takes its time.
"""

SPENT = ("rollouts", "tokens", "seconds", "dollars")
QUICK_SEEDS, SEEDS = 3, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where the comparison lies; one that is there is gone on with")
    add_task(parser.add_argument_group("what to improve"))
    how = parser.add_argument_group("how")
    how.add_argument(
        "--arms",
        metavar="LIST",
        help="none, harness, weights, both, fixed-alternation, random-choice, best-of-n (default: these), learned",
    )
    how.add_argument("--seeds", type=int, metavar="N", help=f"runs of each arm (default: {SEEDS})")
    how.add_argument("--budget", metavar="LIMITS", help="of each run, for example rollouts=50000: the same for all")
    how.add_argument(
        "--quick",
        action="store_true",
        help=f"none, harness, weights and both, {QUICK_SEEDS} seeds, a small budget in counts that is named",
    )
    how.add_argument("--improver", metavar="NAME[:MODEL]", help="who decides where an arm has no rule of its own")
    how.add_argument(
        "--improver-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of it; repeatable"
    )
    how.add_argument("--generations", metavar="N", help="of each run, at most (default: 8)")
    how.add_argument("--candidates", metavar="N", help="tried at once a generation (default: 2)")
    add_policy(how, "tiny where an arm trains, the same for all arms")
    where = parser.add_argument_group("where")
    where.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: one a core)")
    add_sandbox(where)
    add_backend(where)
    where.add_argument("--json", action="store_true", help="print the result as JSON at the end")


def run(options: argparse.Namespace) -> int:
    from sia_core.comparison.arms import begun
    from sia_core.comparison.doing import Doing
    from sia_core.comparison.result import result

    folder = Path(options.folder)
    design = begun(folder, asked(options))
    print(shown(f"{folder}: {len(design.cells())} runs, each with --budget {design.budget}"), file=sys.stderr)
    known = signal.signal(signal.SIGTERM, signal.default_int_handler)  # or its runs would go on without it
    try:
        failed = Doing(folder, design, _tell).all(options.jobs or os.cpu_count() or 1)
    finally:
        signal.signal(signal.SIGTERM, known)
    found = result(folder, design)
    if options.json:
        print_json(found)
    else:
        print_result(found)
    return 1 if failed else 0


def asked(options: argparse.Namespace) -> Design | None:
    """The design that the options ask for; None where they name no task, and what is there is gone on with."""
    from dataclasses import replace

    from sia_core.comparison.arms import ARMS, QUICK, USUAL, Design, parse_arms
    from sia_core.errors import UsageError

    if options.plugin is None and options.harness is None:
        return None
    arms = parse_arms(options.arms) if options.arms else QUICK if options.quick else USUAL
    trains = any("weights" in ARMS[name].levers for name in arms if name in ARMS)
    policy = options.policy or ("tiny" if trains else None)
    design = Design(
        task=_task(options),
        how=_options(options, ("generations", "candidates", "sandbox"), policy),
        improver=(*_pair("--improver", options.improver), *_each("--improver-set", options.improver_set)),
        arms=arms,
        seeds=options.seeds or (QUICK_SEEDS if options.quick else SEEDS),
        budget=options.budget or "",
    )
    if options.budget:
        return design
    if not options.quick:
        raise UsageError("name the budget that every arm gets, for example --budget rollouts=50000, or --quick")
    return replace(design, budget=_quick_budget(design))


def _quick_budget(design: Design) -> str:
    """Enough for the report, some looks at agents and an update; it is checked on the way that runs can work.

    In rollouts; in verifications where a rollout may have several answers evaluated.
    """
    from sia_core.cli import parser_of
    from sia_core.cli.run import config_of
    from sia_core.comparison.arms import Cell
    from sia_core.decision import Training
    from sia_core.plan import take_samples
    from sia_core.plugins import Plugins
    from sia_core.running import workable

    command = ["run", *design.command(Cell(design.arms[-1], 0))]
    config, task = workable(config_of(parser_of(command).parse_args(command)), Plugins.discover())
    samples = take_samples(task, config.plan)
    kind = "verifications" if samples.evaluations else "rollouts"
    look, report = samples.look(explores=True).kinds[kind], samples.report.kinds[kind]
    looks, update = PARTS[kind]
    return f"{kind}={report + looks * look + update * Training().rollouts(len(samples.search)):.0f}"


def _task(options: argparse.Namespace) -> tuple[str, ...]:
    """The options that name the task, with paths that hold from everywhere."""
    path = {key: os.path.abspath(value) for key in ("harness", "data") if (value := getattr(options, key))}
    named = (*_pair("--plugin", options.plugin), *_pair("--harness", path.get("harness")))
    data = (*_pair("--data", path.get("data")), *_each("--set", options.set))
    return (*named, *data, *_pair("--verifier", options.verifier))


def _options(options: argparse.Namespace, keys: tuple[str, ...], policy: str | None) -> tuple[str, ...]:
    told = [each for key in keys for each in _pair(f"--{key}", getattr(options, key))]
    told += ["--allow-weak-sandbox"] if options.allow_weak_sandbox else []
    if options.backend != LOCAL:
        told += [*_pair("--backend", options.backend), *_each("--backend-set", options.backend_set)]
    if policy is None:
        return tuple(told)
    engine = ("--policy", policy, "--engine", options.engine, *_each("--engine-set", options.engine_set))
    return (*told, *engine)


def _pair(option: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (option, str(value))


def _each(option: str, values: list[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in (option, value))


def _tell(cell: Cell, what: str) -> None:
    print(shown(f"sia: {cell.name} {what}"), file=sys.stderr, flush=True)


def print_result(found: Mapping[str, Any]) -> None:
    """The result for people."""
    out = console()
    design = found["design"]
    of = "" if found["finished"] == found["runs"] else f" of {found['runs']}"
    about = f"  {found['finished']}{of} runs, {design['seeds']} seeds, budget of each: {design['budget']}"
    out.print(plain("\n", (found["folder"], "bold"), about))
    _print_arms(found, out)
    _print_contrasts("Differences on sealed", found["comparisons"], out)
    _print_contrasts("What each lever added", found["attribution"], out)
    out.print(plain(("What cannot be concluded", "bold")))
    for line in found["cannot_conclude"]:
        out.print(plain(f"  {line}"))


def _print_arms(found: Mapping[str, Any], out: Console) -> None:
    from rich.table import Table

    kinds = [kind for kind in SPENT if any(arm["spent"].get(kind) for arm in found["arms"])]
    scores = ("first agent", f"sealed {found['metric']}", "95% over cases", "95% over seeds")
    table = Table("arm", "runs", *scores, "accepted", *kinds)
    for arm in found["arms"]:
        final = arm["final"]
        if not final:
            table.add_row(plain(arm["arm"]), "0")
            continue
        spent = (f"{arm['spent'][kind]:,.{4 if kind == 'dollars' else 0}f}" for kind in kinds)
        values = f"{arm['initial']:.4f}", f"{final['value']:.4f}", _span(final["cases"]), _span(final["seeds"])
        table.add_row(plain(arm["arm"]), str(arm["finished"]), *values, f"{arm['accepted']:.1f}", *spent)
    out.print(table)


def _print_contrasts(title: str, rows: list[dict[str, Any]], out: Console) -> None:
    from rich.table import Table

    if not rows:
        return
    tested = any("p_adjusted" in row["cases"] for row in rows)
    columns = ("95% over cases", *(("p",) if tested else ()), "95% over seeds", *(("p",) if tested else ()))
    table = Table("", "difference", *columns, title=title, title_justify="left")
    for row in rows:
        told = [(_span(row[over], "+"), _p(row[over])) for over in ("cases", "seeds")]
        cells = [each for span, p in told for each in ((span, p) if tested else (span,))]
        table.add_row(plain(row["name"]), f"{row['value']:+.4f}", *cells)
    out.print(table)
    if tested:
        out.print("p-values are two-sided, and adjusted for the number of differences (Holm).")


def _span(estimate: Mapping[str, Any], sign: str = "") -> str:
    if estimate["ci95"] is None:
        return f"{estimate['n']} alone"
    low, high = estimate["ci95"]
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _p(estimate: Mapping[str, Any]) -> str:
    p = estimate.get("p_adjusted")
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
