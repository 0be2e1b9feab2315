"""Options of a command from a file: ``-f sia.toml``.

A key is an option's long name; an option that is given as KEY=VALUE may be a table. What the
command line says comes after what the file says, and so overrides it.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_cli.parser import Parser
from sia_core.errors import UsageError, meant
from sia_core.given_files import read_named

COMMANDS = ("run", "plan", "compare")
PATHS = ("data", "harness", "task-dir", "runs-dir", "secret", "meta-agent-profile", "target-agent-profile")
"""Options that name a path; in a file it is relative to the folder that the file lies in."""

REPEATED = ("set", "engine-set", "improver-set", "backend-set")
"""Options of one KEY=VALUE each."""

LISTED = ("budget", "train")
"""Options of several KEY=VALUE, between commas."""

MOST_BYTES = 1 << 20


def add_file(parser: argparse._ActionsContainer) -> None:
    """The option that names a file of options; :func:`with_file` reads it before the command line is parsed."""
    parser.add_argument("-f", "--file", metavar="FILE", help="take options from a TOML file; others override it")


def with_file(arguments: Sequence[str], parser: Parser) -> list[str]:
    """A command line with the options of the file that it names put before its own; UsageError where there is none.

    ``parser`` is of this command line.
    """
    name, *options = arguments or [""]
    if name not in COMMANDS:
        return list(arguments)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_file(finder)
    namespace, _ = finder.parse_known_args(options)
    if namespace.file is None:
        return list(arguments)
    settings = read(Path(namespace.file))
    names = [each.removeprefix("--") for each in parser.names()]
    for key in settings:
        if key not in names:
            raise UsageError(f"-f {namespace.file}: there is no option {key}{meant(key, names) or parser.listed()}")
    if any(each.partition("=")[0] == "--mode" for each in options):
        settings.pop("levers", None)  # two names of one thing
    return [name, *arguments_of(settings, f"-f {namespace.file}", Path(namespace.file).parent), *options]


def read(file: Path) -> dict[str, Any]:
    """The options that a file holds, by their long names."""
    try:
        return {key.replace("_", "-"): value for key, value in tomllib.loads(_text(file)).items()}
    except (ValueError, RecursionError) as error:  # not TOML; or an integer, or a depth, that Python does not read
        raise UsageError(f"-f {file}: this is not TOML: {error}") from None


def _text(file: Path) -> str:
    try:
        return read_named(file, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"-f {file}: it is not written in UTF-8: {error}") from None
    except OSError as error:
        raise UsageError(f"-f {file}: it cannot be read: {error.strerror or error}") from None


def arguments_of(options: Mapping[str, Any], where: str, folder: Path) -> Iterator[str]:
    """Options as a command line; a path is relative to ``folder``. UsageError names ``where`` they stand."""
    for key, value in options.items():
        if key == "file":
            raise UsageError(f"{where}: a file of options names no other one; put its options here")
        if isinstance(value, Mapping):
            if key not in (*REPEATED, *LISTED):
                raise UsageError(f"{where}: [{key}] is a table, and --{key} takes one value")
            pairs = [f"{name}={_plain(each, f'{key}.{name}', where)}" for name, each in value.items()]
            yield from (f"--{key}={each}" for each in (pairs if key in REPEATED else [",".join(pairs)]))
        elif isinstance(value, list) and key in REPEATED:
            yield from (f"--{key}={_plain(each, key, where)}" for each in value)
        elif isinstance(value, list):
            yield f"--{key}={','.join(_plain(each, key, where) for each in value)}"
        elif value is True:
            yield f"--{key}"
        elif value is not False:
            text = _plain(value, key, where)
            yield f"--{key}={folder / os.path.expanduser(text) if key in PATHS else text}"


def write(file: Path, options: Mapping[str, Any]) -> None:
    """Write options, by their names in Python, as :func:`read` reads them; UsageError where the file exists."""
    folder = file.absolute().parent
    lines = []
    for key, value in options.items():
        name = key.replace("_", "-")
        option = os.path.relpath(os.path.expanduser(value), folder) if name in PATHS else value
        # TOML reads strings and lists as JSON writes them.
        lines.append(f"{name} = {json.dumps(option, ensure_ascii=False)}\n")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.writelines(lines)
    except OSError as error:
        raise UsageError(f"--save-config {file}: {error.strerror}; choose another name") from None


def is_argument(text: str) -> bool:
    """Whether the system takes a text as an argument or a path: one without NUL, and without half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _plain(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        if not is_argument(text := str(value)):
            raise UsageError(f"{where}: {key} is {text!r}, with a character that no option can have; leave it out")
        return text
    raise UsageError(f"{where}: {key} is a {type(value).__name__}; write a text or a number")
