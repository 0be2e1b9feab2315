"""``sia run``: start a run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sia_cli.config_file import write
from sia_cli.configuration import add_configuration, config_of
from sia_cli.options import add_runs_dir, add_track, resumable, runs_dir_argument, runs_folder
from sia_cli.output import print_json

if TYPE_CHECKING:
    from sia_cli.stopping import Watch

NO_PART_OF_A_RUN = ("file", "save_config", "dry_run", "json")
"""Options that say what the command does with the others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = add_configuration(parser)
    where.add_argument("--json", action="store_true", help="print the report as JSON at the end")
    where.add_argument(
        "--dry-run", action="store_true", help="check everything and say what the run would take; start nothing"
    )
    where.add_argument("--save-config", metavar="FILE", help="write these options to a file for -f; start nothing")
    add_track(where)
    add_runs_dir(where)
    where.add_argument("--name", metavar="NAME", help="the run's name in it (default: the task's, and the date)")


def run(options: argparse.Namespace) -> int:
    if options.save_config or options.dry_run:
        _check_others(options)
    if options.save_config:
        _save(options)
    elif options.dry_run:  # leaves nothing to go on with
        _print_price(options)
    else:
        _improve(options)
    return 0


def _save(options: argparse.Namespace) -> None:
    """Write the options that are not as they are by default, checked as far as that starts nothing."""
    from sia_cli.output import shown

    config_of(options)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = vars(parser.parse_args([]))
    file = Path(options.save_config)
    values = {name: value for name, value in vars(options).items() if value != usual.get(name, value)}
    write(file, {name: value for name, value in values.items() if name not in NO_PART_OF_A_RUN})
    print(shown(f"Wrote {file}. Start the run by `{shlex.join(['sia', 'run', '-f', str(file)])}`."))


def _check_others(options: argparse.Namespace) -> None:
    """Check what the configuration does not hold. No tracker is made, as it may ask a server."""
    from sia_core.plugins import Plugins

    if options.secret:
        _secret(options.secret)
    plugins = Plugins.discover() if options.track else Plugins()
    for each in options.track:
        plugins.find("tracker", each.partition(":")[0])


def _print_price(options: argparse.Namespace) -> None:
    from sia_cli.price import print_price
    from sia_cli.pricing import price
    from sia_core.plugins import Plugins
    from sia_core.run.run_folders import free_folder

    plugins, config, runs = Plugins.discover(), config_of(options), runs_folder(options)
    if options.name is not None:
        free_folder(runs, options.name)
    cost = price(config, plugins)
    print_json(cost) if options.json else print_price(cost)


def _improve(options: argparse.Namespace) -> None:
    from sia_cli.progress import watching
    from sia_cli.report_text import print_report
    from sia_cli.stopping import Watch
    from sia_core.plugins import Plugins
    from sia_core.run.ledger import Ledger
    from sia_core.run.start import start
    from sia_reading.report import build

    plugins, config, runs = Plugins.discover(), config_of(options), runs_folder(options)
    secret = _secret(options.secret) if options.secret else None
    watch = Watch()
    with watching(plugins, options.track) as observers, _resumable(watch, options):
        folder = start(config, runs, plugins, [watch, *observers], options.name, secret)
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    if options.json:
        print_json(report)
    else:
        print_report(report, folder)


@contextmanager
def _resumable(watch: Watch, options: argparse.Namespace) -> Iterator[None]:
    """Have a run that is interrupted say how it goes on, once there is one."""
    try:
        yield
    except KeyboardInterrupt:
        if not watch.name:
            raise KeyboardInterrupt("No run was begun.") from None
        with resumable("sia", "resume", watch.name, *runs_dir_argument(options)):
            raise


def _secret(path: str) -> str:
    from sia_core.errors import LedgerError, UsageError
    from sia_core.run.secret import read_secret

    try:
        return read_secret(Path(path))
    except LedgerError as error:
        raise UsageError(f"--secret {error}") from None
