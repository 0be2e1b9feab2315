"""``sia export``: the best agent of a run, or its best answer, as a folder that stands on its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from sia_cli.options import add_run, add_trust
from sia_cli.output import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser)
    parser.add_argument("folder", metavar="DIR", help="where to write it; must not exist, or be empty")


def run(options: argparse.Namespace) -> int:
    from sia_core.plugins import Plugins
    from sia_core.run.ledger import Ledger, readable
    from sia_core.run.run_folders import find_run
    from sia_deploy.export import export

    run_folder = find_run(Path(options.runs_dir), options.name)
    with Ledger.read(run_folder) as ledger, readable(run_folder):
        wrote = export(ledger, Path(options.folder), Plugins.discover(), options.trust)
    print(shown(f"Wrote the {wrote} of {run_folder.name} to {options.folder}; its README.md says how to use it."))
    return 0
