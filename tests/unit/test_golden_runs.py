"""Runs of an earlier version are reported and replayed as that version did it: the ledger is a format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden_runs import report, restore

from sia_cli.replay_run import replay
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_reading.report import build

RUNS = ("sums", "words")
"""A run of edits alone, and one that trained a policy and promoted it."""

DRAFTED = "drafted"
"""A run whose first harness a language model had written, in a conversation that runs begin with no more."""


@pytest.mark.parametrize("name", [*RUNS, DRAFTED])
def test_a_run_of_an_earlier_version_is_reported_as_it_was(tmp_path: Path, name: str) -> None:
    with Ledger.read(restore(name, tmp_path / name)) as ledger:
        now = build(ledger)
    assert kept(now, report(name)) == report(name)


def kept(now: Any, before: Any) -> Any:
    """The part of a report that the earlier version gave, too."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: kept(now[key], value) for key, value in before.items()}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [kept(*pair) for pair in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_earlier_version_is_replayed_to_its_end(tmp_path: Path, name: str) -> None:
    replayed = replay(restore(name, tmp_path / name), Plugins.discover(), trust=True)
    assert replayed.ends == "the run is finished"
    # The improver has learned to believe otherwise since, and says so; all else is as it was.
    assert not [each.key for each in replayed.differences if not each.key.endswith("/decide")]
    assert not replayed.unreached
    assert replayed.compared >= 11


def test_a_run_whose_first_harness_a_model_wrote_is_replayed_from_that_harness(tmp_path: Path) -> None:
    pytest.importorskip("sia_claude")
    replayed = replay(restore(DRAFTED, tmp_path / DRAFTED), Plugins.discover(), trust=True)
    assert replayed.ends == "the run is finished"
    # Today's run would begin with the agent as given, and says so; the conversation's cost is not booked again.
    keys = {each.key for each in replayed.differences if not each.key.endswith("/decide")}
    assert keys == {"draft", "finished"}
