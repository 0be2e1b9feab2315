"""Snapshots of a policy: durable before they are named, and nothing half left by a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from sia_core.run.trees import ADAPTERS
from sia_runtime.worker.policy import Policy
from sia_testing.engines import ScriptedEngine


def test_a_snapshots_name_is_durable_when_it_is_told_also_where_it_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ADAPTERS
    there: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(
        "sia_runtime.worker.policy.sync_folder",
        lambda each: there.append((each, sorted(path.name for path in each.iterdir()))),
    )
    policy = Policy(ScriptedEngine(), folder)
    for _ in range(2):
        there.clear()
        digest = policy.keep()
        assert there == [(folder, [digest]), (tmp_path, [ADAPTERS])]
    policy.close()


def test_what_a_kill_left_of_a_snapshot_is_removed_by_the_next_policy_and_whole_ones_stay(tmp_path: Path) -> None:
    policy = Policy(ScriptedEngine(), tmp_path)
    digest = policy.keep()
    policy.close()
    for half in ("unknown-base", f".{digest}.x7"):
        (tmp_path / half).mkdir()
        (tmp_path / half / "weights").write_text("ha")
    Policy(ScriptedEngine(), tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [digest]
