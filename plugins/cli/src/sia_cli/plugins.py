"""``sia plugins``: what is installed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sia_cli.commands import OWN
from sia_cli.output import console, plain, print_json

if TYPE_CHECKING:
    from sia_core.plugins import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from sia_core.plugins import Plugins

    rows = [_with_precedence(row) for row in Plugins.discover().rows()]
    if options.json:
        print_json([asdict(row) for row in rows])
        return 0
    from rich.table import Table

    table = Table("kind", "name", "distribution", "version", "status", "summary")
    for row in rows:
        status = plain((row.status, "" if row.status == "ok" else "red"))
        about = map(plain, (row.kind, row.name, row.distribution, row.version))
        table.add_row(*about, status, plain(row.cause or row.summary))
    console().print(table)
    return 0


def _with_precedence(row: Row) -> Row:
    """The row; that of a command which has a name of SIA's own says that it is never run."""
    from dataclasses import replace

    if row.kind != "command" or row.name not in OWN:
        return row
    return replace(row, status="ignored", cause=f"`sia {row.name}` is SIA's own; the plugin has to take another name")
