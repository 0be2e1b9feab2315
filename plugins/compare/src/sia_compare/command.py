"""``sia compare``: arms side by side at one budget, and which lever earned what."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_cli.config_file import add_file
from sia_cli.configuration import (
    LOCAL,
    add_backend,
    add_gate,
    add_policy,
    add_sandbox,
    add_task,
    add_train,
    positive,
    temperature_of,
)
from sia_cli.figures import better
from sia_cli.options import Listed, add_trust, resumable
from sia_cli.output import console, plain, print_json, shown

if TYPE_CHECKING:
    from rich.console import Console

    from sia_compare.arms import Cell, Design

PARTS = {"rollouts": (6, 1 / 2), "verifications": (2, 1 / 6)}
"""A quick comparison's budget beside the report: looks at an agent, and the share of a default update.

Less where answers are evaluated on the way, since such an answer is a program that takes its time.
"""

SPENT = ("rollouts", "tokens", "seconds", "dollars")
QUICK_SEEDS, SEEDS = 3, 8

DESIGN = (
    *("data", "input_column", "answer_column", "set", "verifier", "metric", "arms", "seeds", "budget", "quick"),
    *("improver", "improver_set", "generations", "candidates", "train", "gate", "policy", "engine_set"),
)
"""Options that are decided when a comparison begins."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the comparison's folder; one that is there is continued")
    add_file(parser)
    add_task(parser.add_argument_group("what to improve"))
    how = parser.add_argument_group("how")
    how.add_argument(
        "--arms",
        metavar="LIST",
        help="none, harness, weights, both, fixed-alternation, random-choice, best-of-n (default: these), learned",
    )
    how.add_argument("--seeds", type=positive, metavar="N", help=f"runs of each arm (default: {SEEDS})")
    how.add_argument(
        "--budget",
        action=Listed,
        metavar="LIMITS",
        help="of each run, for example rollouts=50000: the same for all",
    )
    how.add_argument(
        "--quick",
        action="store_true",
        help=f"none, harness, weights and both, {QUICK_SEEDS} seeds, a small budget in counts that is named",
    )
    how.add_argument("--improver", metavar="NAME[:MODEL]", help="who decides where an arm has no rule")
    how.add_argument(
        "--improver-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of it; repeatable"
    )
    how.add_argument("--generations", metavar="N", help="of each run, at most (default: 8)")
    how.add_argument("--candidates", metavar="N", help="tried in each generation (default: 2)")
    add_train(how)
    add_gate(how, None)
    add_policy(how, "tiny where an arm trains, the same for all arms")
    where = parser.add_argument_group("where")
    where.add_argument("--jobs", type=positive, metavar="N", help="runs at once (default: one a core)")
    add_sandbox(where)
    add_backend(where)
    add_trust(where)
    where.add_argument("--json", action="store_true", help="print the result as JSON at the end")


def run(options: argparse.Namespace) -> int:
    with resumable("sia", "compare", options.folder):
        return _compare(options)


def _compare(options: argparse.Namespace) -> int:
    from sia_compare.arms import Design, begun
    from sia_compare.doing import Doing
    from sia_compare.result import result
    from sia_core.run.trust import confirm_commands

    folder = Path(options.folder)
    request = asked(options)
    if request is not None and Design.read(folder) is None:  # a design cannot be changed once it is put down
        check(request)
    design = begun(folder, request)
    doing = Doing(folder, design, _tell)
    if request is None and (cells := doing.unfinished()):
        arms = {cell.arm: cell for cell in reversed(cells)}  # whose runs differ by their seeds alone
        commands = [shlex.join(["sia", "run", *design.command(cell)]) for cell in reversed(arms.values())]
        confirm_commands(folder, commands, vars(design), options.trust)
    print(shown(f"{folder}: {len(design.cells())} runs, each with --budget {design.budget}"), file=sys.stderr)
    failed = doing.all(options.jobs or os.cpu_count() or 1)
    outcome = result(folder, design)
    if options.json:
        print_json(outcome)
    else:
        print_result(outcome)
    return 1 if failed else 0


def asked(options: argparse.Namespace) -> Design | None:
    """The design that the options ask for; None where they name no task, which continues the one in the folder."""
    from dataclasses import replace

    from sia_compare.arms import ARMS, QUICK, USUAL, Design, parse_arms
    from sia_core.errors import UsageError

    if options.plugin is None and options.harness is None:
        if names := [f"--{name.replace('_', '-')}" for name in DESIGN if getattr(options, name)]:
            raise UsageError(
                f"{', '.join(names)}: what is compared is decided once, when a comparison begins. "
                f"`sia compare {shlex.quote(options.folder)}` alone goes on with the one in that folder; to begin "
                "another, name its task too (--plugin or --harness) and a new folder"
            )
        return None
    arms = parse_arms(options.arms) if options.arms else QUICK if options.quick else USUAL
    trains = any("weights" in ARMS[name].levers for name in arms if name in ARMS)
    policy = options.policy or ("tiny" if trains else None)
    design = Design(
        task=_task(options),
        how=_options(options, ("generations", "candidates", "gate", "sandbox"), policy),
        improver=(*_pair("--improver", options.improver), *_each("--improver-set", options.improver_set)),
        arms=arms,
        seeds=options.seeds or (QUICK_SEEDS if options.quick else SEEDS),
        budget=options.budget or "",
        train=options.train,
    )
    if options.budget:
        return design
    if not options.quick:
        raise UsageError("name the budget that every arm gets, for example --budget rollouts=50000, or --quick")
    return replace(design, budget=_quick_budget(design))


def check(design: Design) -> None:
    """UsageError, or another error of ``sia run``, where a run of the comparison could not start."""
    from contextlib import closing

    from sia_cli.configuration import config_from
    from sia_compare.arms import Cell
    from sia_core.plugins import Plugins
    from sia_core.run.rollouts import new_secret
    from sia_core.run.start import backend_of, checked, prepare

    plugins = Plugins.discover()
    configs = [checked(config_from(design.command(Cell(arm, 0))), plugins) for arm in design.arms]
    config, task = configs[0]  # sandbox and verifier are the same in all of them
    with closing(backend_of(config, plugins)) as backend:
        prepare(config, task, backend, new_secret())


def _quick_budget(design: Design) -> str:
    """Enough for the report, some looks at agents and an update; it is checked on the way that runs can work.

    In rollouts; in verifications where a rollout may have several answers evaluated.
    """
    from sia_cli.configuration import config_from
    from sia_compare.arms import BOTH, Cell
    from sia_core.plugins import Plugins
    from sia_core.run.plan import take_samples
    from sia_core.run.start import levers_of, workable

    command = design.command(Cell(design.arms[-1], 0))
    plugins = Plugins.discover()
    config, task = workable(config_from(command), plugins)
    samples = take_samples(task, config.plan)
    kind = "verifications" if samples.evaluations else "rollouts"
    levers = levers_of(BOTH, plugins, config.lever_settings).values()
    look, report = samples.look(levers).kinds[kind], samples.report.kinds[kind]
    pull = max(lever.pull_cost(len(samples.search)).kinds[kind] for lever in levers)
    looks, pulls = PARTS[kind]
    return f"{kind}={report + looks * look + pulls * pull:.0f}"


def _task(options: argparse.Namespace) -> tuple[str, ...]:
    """The options that name the task, with paths that hold from everywhere."""
    path = {key: os.path.abspath(value) for key in ("harness", "data") if (value := getattr(options, key))}
    named = (*_pair("--plugin", options.plugin), *_pair("--harness", path.get("harness")))
    data = (*_pair("--data", path.get("data")), *_each("--set", options.set))
    columns = (*_pair("--input-column", options.input_column), *_pair("--answer-column", options.answer_column))
    return (*named, *data, *columns, *_pair("--verifier", options.verifier), *_pair("--metric", options.metric))


def _options(options: argparse.Namespace, keys: tuple[str, ...], policy: str | None) -> tuple[str, ...]:
    arguments = [each for key in keys for each in _pair(f"--{key}", getattr(options, key))]
    arguments += ["--allow-weak-sandbox"] if options.allow_weak_sandbox else []
    if options.backend != LOCAL:
        arguments += [*_pair("--backend", options.backend), *_each("--backend-set", options.backend_set)]
    if policy is None:
        return tuple(arguments)
    heat = [f"{key}={value}" for key, value in temperature_of(options.train).items()]  # arms that only ask share it
    engine = ("--policy", policy, "--engine", options.engine, *_each("--engine-set", [*options.engine_set, *heat]))
    return (*arguments, *engine)


def _pair(option: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (option, str(value))


def _each(option: str, values: list[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in (option, value))


def _tell(cell: Cell, what: str) -> None:
    print(shown(f"sia: {cell.name} {what}"), file=sys.stderr, flush=True)


def print_result(report: Mapping[str, Any]) -> None:
    """The result for people."""
    out = console()
    design = report["design"]
    of = "" if report["finished"] == report["runs"] else f" of {report['runs']}"
    about = f"  {report['finished']}{of} runs, {design['seeds']} seeds, budget of each: {design['budget']}"
    out.print(plain("\n", (report["folder"], "bold"), about))
    if note := better({"name": report["metric"], "direction": report["direction"]}):
        out.print(plain(note))
    _print_arms(report, out)
    _print_contrasts("Differences on sealed", report["comparisons"], out)
    _print_contrasts("What each lever added", report["attribution"], out)
    out.print(plain(("What cannot be concluded", "bold")))
    for line in report["cannot_conclude"]:
        out.print(plain(f"  {line}"))


def _print_arms(report: Mapping[str, Any], out: Console) -> None:
    from rich.table import Table

    kinds = [kind for kind in SPENT if any(arm["spent"].get(kind) for arm in report["arms"])]
    scores = ("first agent", f"sealed {report['metric']}", "95% over cases", "95% over seeds")
    table = Table("arm", "runs", *scores, "accepted", *kinds)
    for arm in report["arms"]:
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
        pairs = [(_span(row[over], "+"), _p(row[over])) for over in ("cases", "seeds")]
        cells = [each for span, p in pairs for each in ((span, p) if tested else (span,))]
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
