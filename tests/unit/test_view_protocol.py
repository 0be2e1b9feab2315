"""Pictures of runs are a plugin's; without one the commands say what to install."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from plugin_sites import write_plugin

from sia_cli import main
from sia_cli.report import as_csv
from sia_core.plugins import ALLOW_VARIABLE
from sia_core.run.ledger import Ledger

PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl
sia_api = 1
@hookimpl
def sia_views(): return [Offer("dashboard", "s", "painter_parts:View")]
"""

PARTS = """
class View:
    def serve(self, runs, at, run): print("serves", runs.name, at.host, at.port, run)
    def page(self, run): return f"<p>{run.name}</p>"
    def plots(self, run, folder): return [folder / "scores.png"]
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, and the view of a stranger's plugin, called ``painter``."""
    Ledger.create(tmp_path / "runs" / "fake-1").close()
    monkeypatch.syspath_prepend(str(write_plugin(tmp_path, "painter", PLUGIN, PARTS)))
    monkeypatch.setenv(ALLOW_VARIABLE, "painter")
    return tmp_path / "runs"


def test_a_view_is_served_where_it_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--runs-dir", str(runs), "--port", "0"]) == 0
    assert main(["view", "--runs-dir", str(runs), "--host", "::1", "fake-1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["serves runs 127.0.0.1 0 None", "serves runs ::1 8642 fake-1"]


def test_a_run_is_written_as_a_page(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", "fake-1", "--runs-dir", str(runs), "--html", str(page)]) == 0
    assert page.read_text() == "<p>fake-1</p>"


def test_pictures_are_named_once_they_are_written(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "fake-1", "--runs-dir", str(runs), "--png", "plots"]) == 0
    assert capsys.readouterr().out == "plots/scores.png\n"


@pytest.mark.parametrize(
    "arguments", [["view"], ["report", "--html", "page.html"], ["report", "--png", "plots"]], ids=" ".join
)
def test_without_a_view_it_is_said_what_to_install(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "")
    assert main([*arguments, "--runs-dir", str(runs)]) == 2
    assert "pip install sia-dashboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["view", "--runs-dir", "nowhere"], "no such folder"),
        (["report", "--html", "nowhere/page.html"], "No such file"),
    ],
)
def test_what_cannot_be_served_or_written_is_the_users_to_mend(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    where = [] if "--runs-dir" in arguments else ["--runs-dir", str(runs)]
    assert main([*arguments, *where]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_a_port_is_a_number_that_there_is(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["view", f"--port={port}"])
    assert stopped.value.code == 2
    assert "is not a port" in capsys.readouterr().err


def candidate(**more: Any) -> dict[str, Any]:
    gate = {"incumbent": 0.5, "candidate": 0.6, "delta": 0.1, "ci95": [0.0, 0.2], "n": 9}
    keys = ("index", "candidate", "lever", "algorithm", "parent", "agent", "predicted", "gain", "accepted")
    return {**dict.fromkeys(keys, 0), "name": "edit", "why": "better", "gate": gate, **more}


def rows_of(*candidates: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv({"run": "fake-1", "generations": candidates}))))


def test_a_candidate_is_a_line_with_the_figures_of_its_gate() -> None:
    (row,) = rows_of(candidate())
    assert (row["run"], row["name"], row["gate_delta"], row["gate_low"], row["gate_high"], row["gate_n"]) == (
        "fake-1", "edit", "0.1", "0.0", "0.2", "9"
    )  # fmt: skip


def test_a_candidate_that_was_not_compared_has_no_figures() -> None:
    (row,) = rows_of(candidate(gate=None))
    assert (row["gate_delta"], row["why"]) == ("", "better")


def test_no_text_of_a_run_becomes_a_line_or_a_formula_of_a_table() -> None:
    rows = rows_of(candidate(name="=HYPERLINK(1)", why="one\ntwo, three"), candidate(name="@x"), candidate(name="+1"))
    assert [row["name"] for row in rows] == ["'=HYPERLINK(1)", "'@x", "'+1"]
    assert rows[0]["why"] == "one two, three"
