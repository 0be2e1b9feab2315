"""``sia audit``: look at a task before money is spent on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sia_cli.configuration import add_policy, add_sandbox, add_seed, add_task, engine_of, task_of, verifier_of
from sia_cli.figures import better
from sia_cli.output import console, plain, print_json

if TYPE_CHECKING:
    from sia_audit.findings import Audit

STYLES = {"ok": "green", "look": "yellow", "bad": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to look at")
    what.add_argument("task", nargs="?", metavar="TASK", help="the same as --plugin TASK")
    add_task(what)
    how = parser.add_argument_group("how")
    add_policy(how, "none")
    add_seed(how)
    where = parser.add_argument_group("where")
    add_sandbox(where)
    where.add_argument("--json", action="store_true", help="for programs, with all figures")


def run(options: argparse.Namespace) -> int:
    from sia_audit.audit import audit
    from sia_core.errors import UsageError
    from sia_core.plugins import Plugins
    from sia_core.run.plan import Plan
    from sia_core.run.start import Config

    if options.task is not None and options.plugin is not None:
        raise UsageError(f"the task is named twice: {options.task}, and --plugin {options.plugin}")
    options.plugin = options.plugin or options.task
    config = Config(
        task=task_of(options),
        plan=Plan(generations=0, seed=options.seed),
        verifier=verifier_of(options.verifier),
        sandbox=options.sandbox,
        allow_weak_sandbox=options.allow_weak_sandbox,
        engine=engine_of(options, options.policy),
    )
    with _telling() as tell:
        result = audit(config, Plugins.discover(), tell)
    if options.json:
        print_json(result.to_json())
    else:
        _print(result)
    return 1 if result.verdict == "bad" else 0


@contextmanager
def _telling() -> Iterator[Callable[[str], object]]:
    """Yield a function that shows progress in a line on a terminal, if any."""
    if not sys.stderr.isatty():
        yield str
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda text: status.update(plain(f"{text} ..."))


def _print(result: Audit) -> None:
    """The findings for people, the figures of the classes of answers among them."""
    from rich.table import Table

    out = console()
    classes = Table("answers", "asked", "valid", "mean", "best", "seconds each", title_justify="left")
    for each in result.figures["separation"]:
        figures = (f"{each['asked']}", f"{each['valid']:.0%}", f"{each['mean']:.3f}", f"{each['best']:.3f}")
        classes.add_row(plain(each["answers"]), *figures, f"{each['seconds']:.4f}")
    table = Table("check", "of", "", "what was found")
    last = ""
    for finding in result.findings:
        if finding.check != last and last:
            table.add_section()
        check, last = finding.check if finding.check != last else "", finding.check
        mark = (finding.verdict, STYLES[finding.verdict])
        table.add_row(plain(check), plain(finding.about), plain(mark), plain(finding.says))
    out.print(plain("\n", (result.task, "bold"), ": ", (result.verdict, STYLES[result.verdict])))
    if note := better(result.figures["metric"]):
        out.print(plain(note))
    for notice in result.figures["notices"]:
        out.print(plain((" ".join(notice.split()), "yellow")), soft_wrap=True)
    out.print(table)
    out.print(classes)
    bad, look = (sum(each.verdict == verdict for each in result.findings) for verdict in ("bad", "look"))
    out.print(plain(f"{bad} to be mended before a run (bad), {look} to be known (look)."))
