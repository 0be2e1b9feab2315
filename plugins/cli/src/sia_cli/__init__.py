"""The command line. Only the module of the command that was asked for is imported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sia_cli.commands import OWN, fault, offered, own
from sia_cli.completion import ASKED, complete
from sia_cli.output import shown
from sia_cli.parser import Parser

if TYPE_CHECKING:
    from sia_core.command_protocol import Command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 unusable input, 3 waits for a word, 130 stopped.

    Without ``argv`` the whole process is the command's, with its streams and signals.
    """
    if argv is not None:
        return _main(list(argv))
    if ASKED in os.environ:
        complete(parser_of)
    from sia_cli.terminal import OutputLost, abandon, flush, prepare

    prepare()
    try:
        code = _main(sys.argv[1:])
    except OutputLost as lost:
        return abandon(lost)
    except SystemExit as ended:  # argparse has printed a help, a version or what is wrong
        code = ended.code if isinstance(ended.code, int) else 0
    unwritten = flush()
    return code or unwritten


def _main(arguments: list[str]) -> int:
    from sia_core.errors import SiaError

    try:
        return _run(arguments)
    except SiaError as error:
        print(f"sia: {shown(error)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "sia_").startswith("sia_"):  # which is a fault of SIA
            raise
        print(f"sia: {shown(error)}; `pip install 'sia-core[all]'` brings what SIA's commands need", file=sys.stderr)
        return 2
    except OSError as error:
        if (trouble := _trouble(error)) is None:
            raise
        print(f"sia: {shown(trouble)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"sia: {shown(' '.join(map(str, ('stopped.', *stopped.args))))}", file=sys.stderr)
        return 130


def _trouble(error: OSError) -> str | None:
    """An error of the file system, which any path may lead to, in words for its user; None for another."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; check this name, and who may use it"
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the working folder is not there any more; go to one that is"
    return None


def _run(arguments: list[str]) -> int:
    name = _named(arguments)
    try:
        parser = parser_of(arguments)
        if name is not None:
            from sia_cli.config_file import with_file

            arguments = with_file(arguments, parser)
        options = parser.parse_args(arguments)
        if name is None:
            parser.print_help()
            return 2
        code = options.run_command(options)
        if not isinstance(code, int):
            raise TypeError(f"run returned {code!r}, which is no exit code")
        return code
    except (Exception, SystemExit) as error:
        if name is None or name in OWN or not _is_fault(error):
            raise
        raise fault(name, error) from error


def _named(arguments: Sequence[str]) -> str | None:
    """The command that a command line names."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else None


def _is_fault(error: BaseException) -> bool:
    """Tell a fault in a command's code from a message for the user, an exit, or a reader that left."""
    from sia_cli.terminal import OutputLost
    from sia_core.errors import SiaError

    exits = isinstance(error, SystemExit) and isinstance(error.code, int | None)
    return not (exits or isinstance(error, SiaError | OutputLost))


def parser_of(arguments: Sequence[str]) -> Parser:
    """The parser of a command line; of its commands, only the one that is named has its options."""
    from sia_core import __version__

    parser = Parser(
        prog="sia",
        description="SIA improves an AI agent at a task, by itself: it rewrites the agent's harness or trains "
        "its policy's weights, and keeps a change only if it is measurably better.",
        epilog="Try `sia run --plugin lawbench`; `sia COMMAND --help` tells more. Plugins add commands: `sia plugins` "
        "lists them.",
    )
    parser.add_argument("--version", action="version", version=f"sia-core {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    name = _named(arguments)
    for each, (summary, *_) in OWN.items():
        command = commands.add_parser(each, help=summary, description=_sentence(summary))
        if each == name:
            _attach(own(each), command)
    if name is not None and name not in OWN:
        summary, plugin = offered(name)
        _attach(plugin, commands.add_parser(name, description=_sentence(summary)))
    return parser


def _attach(command: Command, parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.set_defaults(run_command=command.run)


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
