"""Options that several commands have, and the words in which a command names a run or says how to go on."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUNS_DIR = "runs"


class Listed(argparse.Action):
    """Takes ``KEY=VALUE,...``: given again, it adds to the earlier list and replaces the keys that it repeats."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        earlier: str = getattr(namespace, self.dest) or ""
        again = {_key(each) for each in values.split(",")}
        kept = [each for each in earlier.split(",") if each.strip() and _key(each) not in again] if values else []
        setattr(namespace, self.dest, ",".join([*kept, values]))


def _key(pair: str) -> str:
    key, equals, _ = pair.partition("=")
    return key.strip() if equals else "rollouts"  # as a budget reads a bare number


def add_runs_dir(parser: argparse._ActionsContainer) -> None:
    """The option of every command that looks for runs."""
    parser.add_argument(
        "--runs-dir", default=RUNS_DIR, metavar="DIR", help=f"the folder that holds the runs (default: {RUNS_DIR})"
    )


def runs_folder(options: argparse.Namespace) -> Path:
    """The folder of runs, which need not be there yet; UsageError where it is a file."""
    folder = Path(options.runs_dir)
    if folder.exists() and not folder.is_dir():
        from sia_core.errors import UsageError

        raise UsageError(f"--runs-dir {folder}: this is no folder; name the one that holds the runs")
    return folder


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("name", nargs="?", metavar="RUN", help="a run's name or folder (default: the newest)")
    add_runs_dir(parser)


def add_trust(parser: argparse._ActionsContainer) -> None:
    """The option of every command that does what a run's record says."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let a run that you did not start here do what it recorded (commands, servers, files, a weak sandbox), "
        "now and later; without it, that is shown and refused",
    )


def add_track(parser: argparse._ActionsContainer) -> None:
    """The option that names trackers."""
    parser.add_argument(
        "--track",
        metavar="NAME[:WHERE]",
        action="append",
        default=[],
        help="also send the run's figures to tensorboard:DIR, wandb:PROJECT, or a plugin's tracker; repeatable",
    )


def add_address(parser: argparse.ArgumentParser, port: int, others: str) -> None:
    """Where a command serves; ``others`` says what it takes to reach it from elsewhere."""
    parser.add_argument("--host", default="127.0.0.1", help=f"where to serve; {others} (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=port, help=f"0 for any that is free (default: {port})")


def run_argument(folder: Path) -> str:
    """The argument by which a command names a run: its name, or its path where it is not in ``runs``."""
    return shlex.quote(folder.name if folder == Path(RUNS_DIR, folder.name) else str(folder))


def runs_dir_argument(options: argparse.Namespace) -> list[str]:
    """The option that names the folder of runs, where it is not the usual one."""
    return [] if options.runs_dir == RUNS_DIR else ["--runs-dir", options.runs_dir]


@contextmanager
def resumable(*command: str) -> Iterator[None]:
    """Have a command that is stopped inside say by which one its work goes on."""
    try:
        yield
    except KeyboardInterrupt:
        hint = f"What was finished is kept: go on with `{shlex.join(command)}`."
        raise KeyboardInterrupt(hint) from None


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return number
