"""The command line. Only the module of the command that was asked for is imported."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

RUNS_DIR = "runs"

COMMANDS = {
    "run": "improve an agent at a task",
    "plan": "say what a run would take, here and on many workers; start nothing",
    "resume": "go on with a run that was stopped",
    "replay": "do a run again from its records, to see what has changed since",
    "runs": "list the runs of a folder",
    "show": "look at a run, or at one of its candidates: reason, diff, verdict",
    "view": "look at the runs of a folder in a browser, live while they go",
    "report": "the result of a run: sealed scores, every candidate, budget",
    "compare": "run arms side by side at one budget, and test which lever earned what",
    "export": "write the best agent of a run as a folder that runs on its own",
    "serve": "answer by the best agent of a run, behind an OpenAI-compatible endpoint",
    "audit": "look at a task before money is spent: verifier, noise, head-room, leaks, cost",
    "new": "write a plugin package to begin with: a task, an algorithm, a verifier, an engine, ...",
    "import-task": "make a plugin package of a task folder of the released SIA",
    "plugins": "list what is installed, and what is broken",
    "doctor": "say what this machine can do",
}

# Control characters beside tab and newline, marks that turn the direction of text, and halves of surrogate pairs.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 unusable input, 3 waits for a word, 130 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser_of(arguments).parse_args(arguments)
    if options.command is None:
        parser_of(arguments).print_help()
        return 2
    from sia_core.errors import SiaError

    try:
        return int(_module(options.command).run(options))
    except SiaError as error:
        print(f"sia: {shown(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"sia: stopped.{_how_to_go_on(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 141


def _how_to_go_on(options: argparse.Namespace) -> str:
    if options.command not in ("run", "resume"):
        return ""
    name = [options.name] if options.command == "resume" and options.name else []
    where = [] if options.runs_dir == RUNS_DIR else ["--runs-dir", options.runs_dir]
    return f" What was finished is kept: go on with `{shlex.join(['sia', 'resume', *name, *where])}`."


def parser_of(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line; of its commands, only the one that is named has its options."""
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
            _module(name).add_arguments(command)
    return parser


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"sia_core.cli.{command.replace('-', '_')}")


def add_runs_dir(parser: argparse._ActionsContainer) -> None:
    """The option of every command that looks for runs."""
    parser.add_argument(
        "--runs-dir", default=RUNS_DIR, metavar="DIR", help=f"the folder that holds the runs (default: {RUNS_DIR})"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("name", nargs="?", metavar="RUN", help="a run's name or folder (default: the newest)")
    add_runs_dir(parser)


def run_argument(folder: Path) -> str:
    """What a command that is typed here calls a run: its name, or its path where it is not in ``runs``."""
    return shlex.quote(folder.name if folder == Path(RUNS_DIR, folder.name) else str(folder))


def shown(text: object) -> str:
    """Text as a terminal may have it: what would steer the terminal, or hide other text, as escapes."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def plain(*parts: str | tuple[str, str]) -> Text:
    """Text to print as it stands, whatever brackets a run put into it. A part with a style is a pair."""
    from rich.text import Text

    return Text.assemble(*(shown(each) if isinstance(each, str) else (shown(each[0]), each[1]) for each in parts))


def console() -> Console:
    """Standard output for people; wide enough for tables where it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def print_json(value: object) -> None:
    """JSON for programs, on standard output; as harmless on a terminal as other text."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
