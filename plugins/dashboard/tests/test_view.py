"""The view: a run as one page, as pictures, and what is said where neither can be."""

from __future__ import annotations

import builtins
import re
import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from told_runs import Tell

from sia_cli import main
from sia_cli.installed_view import view
from sia_core.errors import UsageError
from sia_core.plugins import Plugins
from sia_core.view_protocol import Address, View
from sia_dashboard.view import Dashboard

HOSTILE = "</style><script>alert(1)</script>"
PNG = b"\x89PNG"


@pytest.fixture
def run(tell: Tell) -> Path:
    """A finished run."""
    return tell().whole().ledger.folder


def test_the_dashboard_is_the_view_that_the_commands_ask_for() -> None:
    assert isinstance(view(Plugins.discover()), View)


def test_a_page_has_every_candidate_and_loads_nothing(run: Path) -> None:
    page = Dashboard().page(run)
    assert 'id="candidate-0.0"' in page
    assert 'href="#candidate-0.1"' in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "<script" not in page
    assert "style-src 'sha256-" in page


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that makes a picture of an answer, and a text."""
    files = {"before <and> after.png": PNG, "README.md": b"text"}
    monkeypatch.setattr("sia_dashboard.view.artefact", lambda ledger, plugins: files)


def test_a_page_shows_the_pictures_that_the_task_makes_of_the_best_answer(run: Path, draws: None) -> None:
    page = Dashboard().page(run)
    assert f'src="data:image/png;base64,{b64encode(PNG).decode()}"' in page
    assert 'alt="before &lt;and&gt; after.png' in page
    assert page.count("<img") == 1


def test_a_page_says_why_the_best_answer_could_not_be_drawn(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> dict[str, bytes]:
        raise UsageError("the data are gone")

    monkeypatch.setattr("sia_dashboard.view.artefact", gone)
    page = Dashboard().page(run)
    assert "could not be drawn: the data are gone" in page
    assert "<img" not in page


def test_no_text_of_a_run_becomes_a_part_of_the_page(tell: Tell) -> None:
    page = Dashboard().page(tell(say=HOSTILE).whole().ledger.folder)
    assert "<script" not in page
    assert page.count("</style>") == 1


def test_a_run_that_has_only_begun_has_a_page_and_no_sealed_score(tell: Tell) -> None:
    page = Dashboard().page(tell().begins().ledger.folder)
    assert "The sealed split is scored once, when the run is closed." in page


def test_a_run_without_a_first_step_has_no_page(tell: Tell) -> None:
    with pytest.raises(UsageError, match="nothing to show"):
        Dashboard().page(tell().ledger.folder)


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: .*--port 0"):
            Dashboard().serve(tmp_path, Address("127.0.0.1", port), None)


def test_pictures_are_drawn_of_what_there_is(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = Dashboard().plots(run, tmp_path / "plots")
    assert [path.name for path in written] == ["scores.png", "sealed.png", "learner-0.1.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)


def test_the_tasks_pictures_of_the_best_answer_are_written_too(run: Path, draws: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = Dashboard().plots(run, tmp_path / "plots")
    assert written[-1].name == "answer-before <and> after.png"
    assert written[-1].read_bytes() == PNG


def test_a_run_that_has_only_begun_has_no_pictures(tell: Tell, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert Dashboard().plots(tell().begins().ledger.folder, tmp_path / "plots") == []


def test_without_matplotlib_it_is_said_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["report", "fake-1", "--runs-dir", str(run.parent), "--png", "plots"]) == 2
    assert "pip install sia-dashboard[png]" in capsys.readouterr().err
