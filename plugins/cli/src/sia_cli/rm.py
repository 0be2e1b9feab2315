"""``sia rm``: remove runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sia_cli.options import add_runs_dir
from sia_cli.output import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="RUN", help="a run's name or folder")
    parser.add_argument("-y", "--yes", action="store_true", help="without asking first")
    add_runs_dir(parser)


def run(options: argparse.Namespace) -> int:
    from sia_core.errors import UsageError
    from sia_core.run.run_folders import find_run

    named = (find_run(Path(options.runs_dir), name) for name in options.names)
    folders = list({folder.resolve(): folder for folder in named}.values())
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here; add --yes to remove what you named")
        print(f"This removes {', '.join(shown(str(each)) for each in folders)}, with all results and adapters.")
        if _answered("Remove? [y/N] ") not in ("y", "yes"):
            return 1
    for folder in folders:
        _remove(folder)
        print(f"removed {shown(str(folder))}")
    return 0


def _answered(question: str) -> str:
    """A person's answer; empty where they end their input in its place, as by Ctrl-D."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return ""


def _remove(folder: Path) -> None:
    """Remove a run that no process works on; what links in it point to stays."""
    from sia_core.errors import UsageError
    from sia_core.run.ledger import locked
    from sia_runtime.sandbox import tree

    with locked(folder):
        try:
            tree.remove(str(folder))  # however deep it is
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror or error}; remove it by hand") from None
