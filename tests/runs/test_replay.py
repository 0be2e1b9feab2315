"""``sia replay`` on real runs: nothing of them is run again, and what has changed is named."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, command

from sia_cli import main
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of the example."""
    folder = tmp_path_factory.mktemp("replayed")
    with redirect_stdout(io.StringIO()):
        assert main([*command(EXAMPLE, folder), "--generations", "2"]) == 0
    return folder / "runs"


@pytest.fixture
def replayed(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``replayed(*options)`` replays the run, with nothing to run anything with: exit code and what was printed."""
    create = Plugins.create

    def made(self: Plugins, kind: str, name: str, /, **settings: Any) -> Any:
        assert kind in ("task", "improver", "algorithm", "lever"), f"a replay has made the {kind} {name}"
        return create(self, kind, name, **settings)

    monkeypatch.setattr(Plugins, "create", made)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))

    def replay(*options: str) -> tuple[int, str]:
        code = main(["replay", "--runs-dir", str(runs), *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return replay


def test_a_finished_run_agrees_with_the_code_that_made_it(replayed: Any, runs: Path) -> None:
    code, text = replayed()
    assert code == 0, text
    assert "Today's code does the same." in text
    code, text = replayed("--json")
    about = json.loads(text)
    assert (code, about["agrees"], about["differences"], about["unreached"]) == (0, True, [], [])
    with Ledger.read(runs / about["run"]) as ledger:
        assert about["steps"] == sum(1 for _ in ledger.events())
    assert about["compared"] > 10


def test_a_changed_belief_of_the_playbook_is_named_at_the_decisions_that_it_changes(
    replayed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sia_playbook.edits.SPREAD", 0.35)
    code, text = replayed()
    assert code == 1
    assert "generation/0/decide comes out otherwise" in text
    assert "± 0." in text
    assert "/gated/" not in text
    assert "Today's code does not do the same." in text


def test_a_run_that_is_not_there_is_the_users_mistake(replayed: Any) -> None:
    code, text = replayed("nowhere")
    assert code == 2
    assert "no run 'nowhere'" in text
