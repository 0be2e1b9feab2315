"""Every command prints the JSON fields that docs/json.md names, all of them and no others."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from documented_fields import documented
from golden_runs import ROOT, restore

from sia_attacks.catalogue import attacks
from sia_attacks.command import rows
from sia_cli import doctor, main, parser_of, pricing
from sia_cli.commands import OWN
from sia_cli.servers import Findings
from sia_compare.arms import Design
from sia_compare.result import result
from sia_core.run.ledger import Ledger

FIELDS = documented()

SUMS = ROOT / "examples" / "sums"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of the example of sums."""
    folder = tmp_path_factory.mktemp("runs")
    restore("sums", folder / "sums")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_command_that_prints_json_is_on_the_page() -> None:
    for name in OWN:
        (commands,) = (each for each in parser_of([name])._actions if isinstance(each, argparse._SubParsersAction))
        if "--json" in commands.choices[name].format_help():
            assert f"sia {name}" in FIELDS


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sia report", []),
        ("sia show --candidate", ["--candidate", "0.0"]),
        ("sia show --failures", ["--failures", "--trust", "--agent", "first"]),
        ("sia show --answers", ["--answers", "1", "--trust"]),
        ("sia runs", []),
        ("sia replay", ["--trust"]),
    ],
)
def test_a_command_on_a_run_prints_what_the_page_says(
    runs: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str]
) -> None:
    command = name.split()[1]
    run = [] if command == "runs" else ["sums"]
    document = printed(capsys, command, *run, "--runs-dir", str(runs), *options)
    if name == "sia report":
        assert document["sealed"]["initial"].keys() == FIELDS["sia report: sealed"]
        assert {field for row in document["generations"] for field in row} == FIELDS["sia report: generations"]
    if name == "sia show --failures":
        assert document["failures"][0].keys() == FIELDS["sia show --failures: failures"]
    assert (document[0] if isinstance(document, list) else document).keys() == FIELDS[name]


def test_a_run_as_a_whole_is_shown_with_the_fields_of_its_report_and_one_more(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = printed(capsys, "show", "sums", "--runs-dir", str(runs))
    assert document.keys() == FIELDS["sia report"] | FIELDS["sia show"]


def test_a_run_before_its_first_step_has_the_fields_that_the_page_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger.create(tmp_path / "begun"):
        pass
    document = printed(capsys, "report", "begun", "--runs-dir", str(tmp_path))
    assert document == {"run": "begun", "status": "unfinished", "generations": []}


@pytest.mark.parametrize("command", [["run", "--dry-run"], ["plan"]], ids=" ".join)
def test_a_price_has_the_fields_that_the_page_names(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = pricing.Measured(1, 0.0, 0.1, 0.01, 0.0, 0.5, {"ok": 1}, 0.001)
    monkeypatch.setattr(pricing, "backend_of", lambda *_: nullcontext())
    monkeypatch.setattr(pricing, "closing", lambda backend: backend)
    monkeypatch.setattr(pricing, "prepare", lambda *_: {"name": "process", "lacks": []})
    monkeypatch.setattr(pricing, "measure", lambda *_: measured)
    what = ["--harness", str(SUMS / "agent"), "--data", str(SUMS / "cases.jsonl")]
    document = printed(capsys, *command, *what)
    assert document.keys() == FIELDS["sia plan"] == FIELDS["sia run --dry-run"]


def test_a_comparison_has_the_fields_that_the_page_names(tmp_path: Path) -> None:
    design = Design(("--plugin", "fake"), (), (), ("none", "harness"), 1, "rollouts=100")
    assert result(tmp_path, design).keys() == FIELDS["sia compare"]


def test_installed_plugins_are_listed_with_the_fields_that_the_page_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "plugins")[0].keys() == FIELDS["sia plugins"]


def test_the_doctor_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine_sandbox", lambda plugins, name: {"name": name, "usable": True})
    monkeypatch.setattr(doctor, "_makes_cgroups", bool)
    monkeypatch.setattr(doctor, "_gpus", list)
    assert printed(capsys, "doctor").keys() == FIELDS["sia doctor"]
    assert Findings("http://a/v1", "http://a").to_json().keys() == FIELDS["sia doctor --servers"]
    assert rows(attacks(), {})[0].keys() == FIELDS["sia doctor --attacks"]
