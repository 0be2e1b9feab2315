"""``sia plugins``: what is installed."""

from __future__ import annotations

import argparse

from sia_core.cli import console, plain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from sia_core.plugins import Plugins

    rows = Plugins.discover().rows()
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
