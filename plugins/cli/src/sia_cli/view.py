"""``sia view``: the runs of a folder in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from sia_core.cli import add_runs_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="RUN", help="the run to begin with (default: the list of runs)")
    add_runs_dir(parser)
    add_address(parser, 8642, "another machine can only read with the token that is printed")


def add_address(parser: argparse.ArgumentParser, port: int, others: str) -> None:
    """Where a command serves; ``others`` says what it takes to reach it from elsewhere."""
    parser.add_argument("--host", default="127.0.0.1", help=f"where to serve; {others} (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=port, help=f"0 for any that is free (default: {port})")


def run(options: argparse.Namespace) -> int:
    from sia_core.errors import UsageError
    from sia_core.plugins import Plugins
    from sia_core.running import find_run
    from sia_core.views import Address, view

    runs = Path(options.runs_dir)
    if not runs.is_dir():
        raise UsageError(f"--runs-dir {runs}: there is no such folder; `sia run` makes one")
    name = None
    if options.name is not None:
        folder = find_run(runs, options.name)
        runs, name = folder.parent, folder.name
    view(Plugins.discover()).serve(runs, Address(options.host, options.port), name)
    return 0


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return number
