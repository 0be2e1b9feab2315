"""``sia new``: a package of one's own to begin with."""

from __future__ import annotations

import argparse
import shlex

from sia_cli.output import console, plain

KINDS = ("task", "algorithm", "verifier", "engine", "backend", "lever", "improver", "command")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("name", metavar="NAME", help="what it is called where it is asked for, such as my-task")
    parser.add_argument("--into", default=".", metavar="DIR", help="the folder to write sia-NAME to (default: here)")


def run(options: argparse.Namespace) -> int:
    from pathlib import Path

    from sia_testing.new import rendered, write

    folder = Path(options.into) / f"sia-{options.name}"
    files = rendered(options.kind, options.name)
    write(folder, files)
    out = console()
    out.print(plain(f"{folder}: {len(files)} files, which work as they are. README.md says what to change."))
    out.print(plain(f"  {shlex.join(['pip', 'install', '--editable', f'{folder}[test]'])}"), soft_wrap=True)
    out.print(plain(f"  {shlex.join(['pytest', str(folder)])}"), soft_wrap=True)
    return 0
