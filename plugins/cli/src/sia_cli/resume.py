"""``sia resume``: go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from sia_cli.options import add_run, add_track, add_trust, resumable, runs_dir_argument
from sia_cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    word = parser.add_mutually_exclusive_group()
    word.add_argument(
        "--approve", action="store_true", dest="approved", default=None, help="go on with what the run waits for"
    )
    word.add_argument("--decline", action="store_false", dest="approved", help="go on without it")
    add_trust(parser)
    add_track(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON at the end")


def run(options: argparse.Namespace) -> int:
    name = [options.name] if options.name else []
    with resumable("sia", "resume", *name, *runs_dir_argument(options)):
        _resume(options)
    return 0


def _resume(options: argparse.Namespace) -> None:
    from sia_cli.progress import watching
    from sia_cli.report_text import print_report
    from sia_core.plugins import Plugins
    from sia_core.run.ledger import Ledger, readable
    from sia_core.run.run_folders import find_run
    from sia_core.run.start import resume
    from sia_reading.report import build

    folder = find_run(Path(options.runs_dir), options.name)
    plugins = Plugins.discover()
    with watching(plugins, options.track) as observers:
        resume(folder, plugins, observers, options.approved, options.trust)
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    with readable(folder):  # of a finished run, it may have come from elsewhere
        if options.json:
            print_json(report)
        else:
            print_report(report, folder)
