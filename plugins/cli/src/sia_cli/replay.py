"""``sia replay``: a run again from its records, to see what today's code would do otherwise."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_cli.options import add_run, add_trust
from sia_cli.output import print_json, shown

if TYPE_CHECKING:
    from sia_cli.replay_run import Replay

LINES = 12
"""Of a difference, for people; ``--json`` has all."""

MOST_COMPARED = 10**8
"""Lines of one text times those of the other, up to which they are compared: it may take as long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from sia_cli.replay_run import replay
    from sia_core.plugins import Plugins
    from sia_core.run.run_folders import find_run

    outcome = replay(find_run(Path(options.runs_dir), options.name), Plugins.discover(), options.trust)
    if options.json:
        print_json(outcome.to_json())
    else:
        for line in told(outcome):
            print(shown(line))
    return 0 if outcome.agrees else 1


def told(outcome: Replay) -> Iterator[str]:
    """The replay for people."""
    answered = outcome.steps - outcome.compared - len(outcome.unreached)
    yield f"{outcome.run}: {outcome.steps} steps, {outcome.compared} computed again, {answered} taken from the record"
    for note in outcome.notes:
        yield f"Note: {note}."
    for each in outcome.differences:
        yield f"\n{each.key} comes out otherwise"
        lines = [line for change in each.changes for line in _change(*change)]
        yield from lines[:LINES]
        if len(lines) > LINES:
            yield f"  ... {len(lines) - LINES} more lines; --json has them all"
    yield f"\nEnd: {outcome.ends}."
    if outcome.unreached:
        more = len(outcome.unreached) - LINES
        yield f"Recorded, and not come to: {', '.join(outcome.unreached[:LINES])}" + (f" and {more} more" * (more > 0))
    yield "Today's code does the same." if outcome.agrees else "Today's code does not do the same."


def _change(path: str, recorded: Any, now: Any) -> Iterator[str]:
    if isinstance(recorded, str) and isinstance(now, str) and "\n" in recorded + now:
        yield f"  {path or 'result'}:"
        both = recorded.splitlines(), now.splitlines()
        if len(both[0]) * len(both[1]) > MOST_COMPARED:
            yield f"    {len(both[0]):,} lines are recorded, now there are {len(both[1]):,}"
            return
        yield from (f"    {line}" for line in difflib.unified_diff(*both, "recorded", "now", lineterm="", n=1))
    else:
        yield f"  {path or 'result'}: recorded {recorded!r}, now {now!r}"
