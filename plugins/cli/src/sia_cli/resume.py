"""``sia resume``: go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from sia_core.cli import add_run, print_json
from sia_core.cli.run import add_track


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    word = parser.add_mutually_exclusive_group()
    word.add_argument(
        "--approve", action="store_true", dest="approved", default=None, help="go on with what the run waits for"
    )
    word.add_argument("--decline", action="store_false", dest="approved", help="go on without it")
    add_track(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON at the end")


def run(options: argparse.Namespace) -> int:
    from sia_core.cli.progress import watching
    from sia_core.cli.report import print_report
    from sia_core.ledger import Ledger
    from sia_core.plugins import Plugins
    from sia_core.report import build
    from sia_core.running import find_run, resume

    folder = find_run(Path(options.runs_dir), options.name)
    plugins = Plugins.discover()
    with watching(plugins, options.track) as observers:
        resume(folder, plugins, observers, options.approved)
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    if options.json:
        print_json(report)
    else:
        print_report(report, folder)
    return 0
