"""``sia view``: the runs of a folder in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from sia_cli.options import add_address, add_runs_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="RUN", help="the run to begin with (default: the list of runs)")
    add_runs_dir(parser)
    add_address(parser, 8642, "another machine can only read with the token that is printed")


def run(options: argparse.Namespace) -> int:
    from sia_cli.installed_view import view
    from sia_core.errors import UsageError
    from sia_core.plugins import Plugins
    from sia_core.run.run_folders import find_run
    from sia_core.view_protocol import Address

    runs = Path(options.runs_dir)
    if not runs.is_dir():
        raise UsageError(f"--runs-dir {runs}: there is no such folder; `sia run` makes one")
    name = None
    if options.name is not None:
        folder = find_run(runs, options.name)
        runs, name = folder.parent, folder.name
    view(Plugins.discover()).serve(runs, Address(options.host, options.port), name)
    return 0
