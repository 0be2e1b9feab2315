"""Whole runs whose metric is to be minimised: the example's forecasts, and what people read of them."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from example_runs import smaller

from sia_cli import main
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord

pytestmark = pytest.mark.real

FORECAST = Path(__file__).parents[2] / "examples" / "forecast"


def forecasts(example: Path, metric: str, *more: str) -> list[str]:
    """The command line of a run of the example, or of a copy."""
    where = ["--harness", str(example / "agent"), "--data", str(example / "cases.jsonl")]
    verifier = f"command:{sys.executable} {example / 'rmse.py'}"
    return ["run", *where, "--verifier", verifier, "--metric", metric, "--generations", "2", *more]


def printed(*arguments: str) -> str:
    """The standard output of a command that succeeds."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(list(arguments)) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with 15 cases a split."""
    return smaller(FORECAST, tmp_path_factory.mktemp("forecast") / "few", 60)


@pytest.fixture(scope="module")
def report(few: Path) -> dict[str, Any]:
    """The report of a run that minimises; it lies in ``few / "runs"``."""
    content: dict[str, Any] = json.loads(
        printed(*forecasts(few, "rmse:min:0,20", "--runs-dir", str(few / "runs"), "--name", "lower", "--json"))
    )
    return content


def test_a_run_that_minimises_promotes_what_errs_less_and_reports_errors(report: dict[str, Any]) -> None:
    assert (report["metric"]["name"], report["metric"]["direction"]) == ("rmse", "minimize")
    assert report["metric"]["bounds"] == [0, 20]
    initial, final = (report["sealed"][end] for end in ("initial", "final"))
    assert 0 < final["value"] < initial["value"]
    assert 0 < final["ci95"][0] < final["value"] < final["ci95"][1]
    assert final["gap"]["value"] == pytest.approx(final["gate"]["value"] - final["value"])
    better = [row["gate"] for row in report["generations"] if row["accepted"]]
    assert better
    for gate in better:
        assert gate["delta"] == pytest.approx(gate["candidate"] - gate["incumbent"])
        assert gate["ci95"][0] < gate["delta"] < gate["ci95"][1] < 0


def test_what_people_read_are_errors_and_that_lower_is_better(few: Path, report: dict[str, Any]) -> None:
    where, value = ("lower", "--runs-dir", str(few / "runs")), f"{report['sealed']['final']['value']:.4f}"
    text = printed("report", *where)
    assert text.count("lower is better") == 1
    assert f"final agent    {value} [" in text
    (row, *_) = csv.DictReader(io.StringIO(printed("report", *where, "--csv")))
    assert float(row["gate_candidate"]) > 0
    assert "rmse: lower is better" in printed("show", *where)
    candidate = json.loads(printed("show", *where, "--candidate", "0.0", "--json"))
    assert candidate["gate"]["incumbent"] > 0


def test_the_page_of_a_run_shows_errors(few: Path, report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("sia_dashboard", reason="the dashboard is not installed")
    printed("report", "lower", "--runs-dir", str(few / "runs"), "--html", str(tmp_path / "run.html"))
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Of rmse, lower is better." in page
    first = report["generations"][0]["gate"]["incumbent"]
    assert f"first agent {first:.4f}" in page
    assert f"-{first:.4f}" not in page


def test_the_export_says_what_the_score_is(few: Path, report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("sia_deploy", reason="exports are not installed")
    printed("export", "lower", str(tmp_path / "agent"), "--runs-dir", str(few / "runs"))
    readme = (tmp_path / "agent" / "README.md").read_text(encoding="utf-8")
    assert f"it scored {report['sealed']['final']['value']:.4f} (rmse: lower is better, 95% interval" in readme


def test_the_same_run_maximised_decides_alike_and_its_values_are_mirrored(few: Path, report: dict[str, Any]) -> None:
    mirrored = smaller(few, few.parent / "mirrored", 60)
    check = (few / "rmse.py").read_text()
    (mirrored / "rmse.py").write_text(check.replace('"reward": 20', '"reward": -20').replace("min(error", "-min(error"))
    other = json.loads(
        printed(*forecasts(mirrored, "skill:max:-20,0", "--runs-dir", str(few / "runs"), "--name", "higher", "--json"))
    )
    assert decided(few / "runs" / "lower") == decided(few / "runs" / "higher")
    for end in ("initial", "final"):
        assert other["sealed"][end]["value"] == -report["sealed"][end]["value"]
        low, high = report["sealed"][end]["gap"]["ci95"]
        assert other["sealed"][end]["gap"]["ci95"] == [-high, -low]
    for row, mirror in zip(report["generations"], other["generations"], strict=True):
        assert (row["predicted"], row["gain"], row["why"]) == (mirror["predicted"], mirror["gain"], mirror["why"])
        assert row["gate"]["delta"] == -mirror["gate"]["delta"]
    assert [row["value"] for row in report["robustness"]["history"]] == [
        -row["value"] for row in other["robustness"]["history"]
    ]


def decided(folder: Path) -> list[Any]:
    """The decisions, verdicts and rewards of a run, without the times."""
    with Ledger.read(folder) as ledger:
        record = RunRecord(ledger)
        rewards = sorted(
            (batch.purpose, batch.agent, each["instance"], each["reward"])
            for batch in record.batches()
            for each in batch.rows
        )
        decisions = [record.decisions(generation) for generation in range(2)]
        return [decisions, [{**row, "took": {}} for row in record.candidates()], rewards]


def test_an_audit_has_errors_too(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sia_audit", reason="audits are not installed")
    _, *command = forecasts(few, "rmse:min:0,20")
    main(["audit", *command[: command.index("--generations")]])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("rmse: lower is better") == 1
    assert "labelled cases │ ok │ earn 0.000" in text
    assert "null │ ok │ earns 20.000; good answers earn 0.000" in text
    assert "at least 0" in text


def test_a_comparison_has_errors_and_their_differences(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("sia_compare", reason="comparisons are not installed")
    _, *command = forecasts(few, "rmse:min:0,20")
    cells = ("--arms", "none,harness", "--seeds", "1", "--budget", "rollouts=400", "--jobs", "1", "--json")
    report = json.loads(printed("compare", str(tmp_path / "compared"), *command, "--candidates", "1", *cells))
    assert (report["metric"], report["direction"]) == ("rmse", "minimize")
    none, harness = report["arms"]
    assert 0 < harness["final"]["value"] <= none["final"]["value"] == pytest.approx(none["initial"])
    assert report["comparisons"][0]["value"] == pytest.approx(harness["final"]["value"] - none["final"]["value"])
    assert "rmse: lower is better" in printed("compare", str(tmp_path / "compared"))


def test_bounds_that_the_first_agent_leaves_end_the_run_at_once(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(forecasts(few, "rmse:min:0,0.1", "--runs-dir", str(tmp_path))) == 2
    error = capsys.readouterr().err
    assert "outside of 0 to 0.1, the bounds of the metric 'rmse': give the metric bounds that hold it" in error
    assert "start a new run" in error


def test_a_later_reward_out_of_bounds_is_a_failure_that_the_report_counts(few: Path, tmp_path: Path) -> None:
    example = smaller(few, tmp_path / "wild", 60)
    check = (example / "rmse.py").read_text()
    (example / "rmse.py").write_text(check.replace("min(error, 20.0)", "error"))
    (example / "agent" / "playbook.toml").write_text(
        '[[edit]]\nname = "wild"\nfamily = "a"\nsummary = "s"\n[[edit.change]]\nop = "replace"\npath = "harness.py"\n'
        'old = "[past[-1]] * AHEAD"\nnew = "[999 if past[0] > past[1] else past[-24]] * AHEAD"\n'
    )
    command = forecasts(example, "rmse:min:0,30", "--runs-dir", str(tmp_path / "runs"))
    report = json.loads(printed(*command, "--json"))
    assert report["status"] == "finished"
    assert not report["generations"][0]["accepted"]
    assert report["out_of_bounds"] > 0
    text = " ".join(printed("report", "--runs-dir", str(tmp_path / "runs")).split())
    assert f"{report['out_of_bounds']} rollouts count as failures" in text
    assert "outside of 0 to 30, the bounds of rmse" in text
    details = json.loads(printed("show", "--runs-dir", str(tmp_path / "runs"), "--json"))
    (searched,) = [ended for ended in details["rollouts"]["search"].values() if "out-of-bounds" in ended]
    assert searched["ok"] > 0


def test_rewards_that_use_little_of_their_range_are_said_to(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(
        printed(*forecasts(few, "rmse:min:0,500", "--generations", "0", "--runs-dir", str(tmp_path), "--json"))
    )
    error = capsys.readouterr().err
    share = f"rewards use {100 * report['narrow']['share']:.2g}% of their range ("
    assert share in error
    assert "of 0 to 500); with bounds closer to what is possible the gate sees smaller gains" in error
    assert f"The first agent's {share}" in " ".join(printed("report", "--runs-dir", str(tmp_path)).split())
    assert 0 < report["narrow"]["low"] < report["narrow"]["high"] < 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--metric", "rmse:down"), "write NAME, NAME:min or NAME:min:LOW,HIGH, such as rmse:min:0,20"),
        (("--metric", "rmse:min:5,1"), "metric 'rmse:min:5,1': write NAME"),
        (("--metric", "rmse:min:0,1:2"), "write NAME"),
        (("--metric", "error:min", "--verifier", "exact"), "gives 1 where an answer is right"),
    ],
)
def test_a_metric_that_is_none_is_refused(
    few: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*forecasts(few, "rmse", "--runs-dir", str(tmp_path)), *options]) == 2
    assert says in capsys.readouterr().err


def test_the_metric_of_a_plugins_task_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugin", "lawbench", "--metric", "rmse:min"]) == 2
    assert "a plugin's task says what it measures" in capsys.readouterr().err
