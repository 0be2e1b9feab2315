"""The command line. Only the module of the command that was asked for is imported."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "run": "improve an agent at a task",
    "resume": "go on with a run that was stopped",
    "runs": "list the runs of a folder",
    "show": "look at a run, or at one of its candidates: reason, diff, verdict",
    "report": "the result of a run: sealed scores, every candidate, budget",
    "export": "write the best agent of a run as a folder that runs on its own",
    "plugins": "list what is installed, and what is broken",
    "doctor": "say what this machine can do",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 the input cannot be used, 130 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser(arguments).parse_args(arguments)
    if options.command is None:
        _parser(arguments).print_help()
        return 2
    from sia_core.errors import SiaError

    try:
        return int(importlib.import_module(f"sia_core.cli.{options.command}").run(options))
    except SiaError as error:
        print(f"sia: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sia: stopped. What was finished is kept: go on with `sia resume`.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 141


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from sia_core import __version__

    parser = argparse.ArgumentParser(
        prog="sia",
        description="SIA improves an AI agent at a task, by itself: it rewrites the agent's harness or trains "
        "its policy's weights, and keeps a change only if it is measurably better.",
        epilog="Try `sia run --plugin lawbench`; `sia COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"sia-core {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    asked = next((each for each in arguments if not each.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked:
            importlib.import_module(f"sia_core.cli.{name}").add_arguments(command)
    return parser


def add_runs_dir(parser: argparse._ActionsContainer) -> None:
    """The option of every command that looks for runs."""
    parser.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="the folder that holds the runs (default: runs)"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("name", nargs="?", metavar="RUN", help="a run's name or folder (default: the newest)")
    add_runs_dir(parser)


def console() -> Console:
    """Standard output for people; wide enough for tables where it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def print_json(value: object) -> None:
    """JSON for programs, on standard output."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode())  # half a surrogate pair cannot be printed
