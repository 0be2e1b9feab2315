"""A whole run, as a user starts it who has an agent and a file of cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from example_runs import Run, command, comparable

from sia_core.cli import main

pytestmark = pytest.mark.real


def test_an_agent_learns_what_its_catalogue_holds_and_the_report_has_every_field(run: Run) -> None:
    report = run()
    assert report["sealed"]["initial"]["value"] < 0.5
    assert report["sealed"]["final"]["value"] == 1.0
    assert report["sealed"]["final"]["n"] == 100
    rows = {row["name"]: row for row in report["generations"] if row["gate"]}
    assert rows["minus"]["accepted"]
    assert rows["times"]["accepted"]
    assert not rows["swap"]["accepted"]
    assert set(report["generations"][0]["gate"]) == {"incumbent", "candidate", "delta", "ci95", "n"}
    fields = {"run", "task", "metric", "seed", "sandbox", "sealed", "generations", "gate_queries", "budget", "agent"}
    assert fields <= set(report)
    columns = {"index", "lever", "algorithm", "accepted", "why", "predicted", "parent", "gate"}
    assert columns <= set(report["generations"][0])


def test_the_same_seed_gives_the_same_report_and_another_seed_another_run(run: Run) -> None:
    one, two, other = run("--seed", "3"), run("--seed", "3"), run("--seed", "4")
    assert comparable(one) == comparable(two)
    assert comparable(one) != comparable(other)


def test_show_and_runs_and_report_tell_what_happened(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run("--generations", "1")
    where = ["--runs-dir", str(tmp_path / "runs")]
    assert main(["runs", "--json", *where]) == 0
    assert [each["run"] for each in json.loads(capsys.readouterr().out)] == [report["run"]]
    assert main(["report", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["show", "--json", *where]) == 0
    gate = json.loads(capsys.readouterr().out)["outcomes"]["gate"]
    seen = {row["agent"]: row["gate"]["n"] for row in report["generations"] if row["gate"]}
    assert all(sum(gate[agent].values()) == n for agent, n in seen.items())
    assert max(seen.values()) == 100
    assert main(["show", "--candidate", "0.0", *where]) == 0
    shown = capsys.readouterr().out
    assert "+++ b/harness.py" in shown
    assert report["generations"][0]["reason"] in shown
    for listing in (["runs"], ["report"], ["show"]):
        assert main([*listing, *where]) == 0
        assert report["run"] in capsys.readouterr().out


def test_resuming_a_finished_run_changes_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run("--generations", "1")
    assert main(["resume", report["run"], "--runs-dir", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report


def test_the_exported_agent_runs_on_its_own(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run()
    target = tmp_path / "exported"
    assert main(["export", report["run"], str(target), "--runs-dir", str(tmp_path / "runs")]) == 0
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("two plus three", "two times three", "nonsense"))
    isolated = [sys.executable, "-I", "-S", str(target / "run.py")]
    done = subprocess.run(isolated, input=lines, capture_output=True, text=True, check=True)
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert (first, second) == ({"answer": 5}, {"answer": 6})
    assert "ValueError" in third["error"]
    assert main(["export", report["run"], str(target), "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("verifier", ["numeric:0.5", "command"])
def test_other_verifiers_score_the_same_answers(run: Run, tmp_path: Path, verifier: str) -> None:
    if verifier == "command":
        script = tmp_path / "check.py"
        script.write_text(
            "import json, sys\ncase = json.load(sys.stdin)\n"
            "print(json.dumps({'reward': float(case['answer'] == case['truth'])}))\n"
        )
        verifier = f"command:{sys.executable} -I -S {script}"
    report = run("--verifier", verifier, "--generations", "0")
    assert report["sealed"]["final"]["value"] == run("--generations", "0")["sealed"]["final"]["value"]


def test_a_shuffled_order_of_cases_changes_no_answer(sums: Path, tmp_path: Path, run: Run) -> None:
    """Splits are named in the file here, so that only the order differs."""
    lines = [json.loads(line) for line in (sums / "cases.jsonl").read_text().splitlines()]
    splits = ("public", "search", "gate", "sealed")
    cases = [{**line, "split": splits[index % 4]} for index, line in enumerate(lines)]
    reports = []
    for order in (cases, cases[::-1]):
        (sums / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in order))
        reports.append(run("--generations", "2"))
    assert _without_data(reports[0]) == _without_data(reports[1])


def _without_data(report: dict[str, Any]) -> dict[str, Any]:
    return comparable(report)


def test_sia_run_says_nothing_but_the_report_when_it_is_not_on_a_terminal(sums: Path, tmp_path: Path) -> None:
    started = [sys.executable, "-m", "sia_core", *command(sums, tmp_path), "--generations", "0"]
    done = subprocess.run(started, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout)["status"] == "finished"
