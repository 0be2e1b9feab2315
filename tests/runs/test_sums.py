"""A whole run, as a user starts it who has an agent and a file of cases."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, Run, command, comparable, smaller

from sia_cli import main

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and the folder it lies in."""

    report: dict[str, Any]
    runs: Path

    @property
    def where(self) -> list[str]:
        return ["--runs-dir", str(self.runs)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("whole")
    with redirect_stdout(StringIO()) as out:
        assert main(command(smaller(EXAMPLE, folder / "sums", 200), folder)) == 0
    return Finished(json.loads(out.getvalue()), folder / "runs")


def test_an_agent_learns_what_its_catalogue_holds_and_the_report_has_every_field(whole: Finished) -> None:
    report = whole.report
    assert report["sealed"]["initial"]["value"] < 0.5
    assert report["sealed"]["final"]["value"] == 1.0
    assert report["sealed"]["final"]["n"] == 50
    rows = {row["name"]: row for row in report["generations"] if row["gate"]}
    assert rows["minus"]["accepted"]
    assert rows["times"]["accepted"]
    assert not rows["swap"]["accepted"]
    figures = {"incumbent", "candidate", "delta", "ci95", "n", "wins", "losses", "p", "level"}
    assert set(report["generations"][0]["gate"]) == figures
    fields = {"run", "task", "metric", "seed", "sandbox", "sealed", "generations", "gate_queries", "budget", "agent"}
    assert fields <= set(report)
    columns = {"index", "lever", "algorithm", "accepted", "why", "predicted", "parent", "gate"}
    assert columns <= set(report["generations"][0])


def test_the_same_seed_gives_the_same_report_and_another_seed_another_run(whole: Finished, run: Run) -> None:
    assert comparable(whole.report) == comparable(run())
    assert comparable(whole.report) != comparable({**run("--seed", "4"), "seed": whole.report["seed"]})


def test_show_and_runs_and_report_tell_what_happened(whole: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    report, where = whole.report, whole.where
    assert main(["runs", "--json", *where]) == 0
    assert [each["run"] for each in json.loads(capsys.readouterr().out)] == [report["run"]]
    assert main(["report", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["show", "--json", *where]) == 0
    gate = json.loads(capsys.readouterr().out)["rollouts"]["gate"]
    counts = {row["agent"]: row["gate"]["n"] for row in report["generations"] if row["gate"]}
    assert all(sum(gate[agent].values()) == n for agent, n in counts.items())
    assert max(counts.values()) == 50
    assert main(["show", "--candidate", "0.0", *where]) == 0
    output = capsys.readouterr().out
    assert "+++ b/harness.py" in output
    assert report["generations"][0]["reason"] in output
    for listing in (["runs"], ["report"], ["show"]):
        assert main([*listing, *where]) == 0
        assert report["run"] in capsys.readouterr().out


def test_sealed_questions_are_shown_with_what_the_first_and_the_final_agent_answered(
    whole: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "--answers", "50", "--json", *whole.where]) == 0
    questions = json.loads(capsys.readouterr().out)
    for end, which in (("first", "initial"), ("final", "final")):
        scores = [each[end]["score"] for each in questions]
        assert sum(scores) / len(scores) == pytest.approx(whole.report["sealed"][which]["value"])
    assert main(["show", "--answers", "1", *whole.where]) == 0
    output = capsys.readouterr().out
    assert questions[0]["question"]["text"] in output
    assert "final agent" in output
    assert "question 2" not in output
    with pytest.raises(SystemExit):
        main(["show", "--answers", "-1", *whole.where])
    assert "'-1' is not a whole number from 0 to 1000" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(whole: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", whole.report["run"], *whole.where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole.report


def test_the_exported_agent_runs_on_its_own(
    whole: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "exported"
    assert main(["export", whole.report["run"], str(target), *whole.where]) == 0
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("two plus three", "two times three", "nonsense"))
    isolated = [sys.executable, "-I", "-S", str(target / "run.py")]
    result = subprocess.run(isolated, input=lines, capture_output=True, text=True, check=True)
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert (first, second) == ({"answer": 5}, {"answer": 6})
    assert "ValueError" in third["error"]
    assert main(["export", whole.report["run"], str(target), *whole.where]) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("verifier", ["numeric:0.5", "command"])
def test_other_verifiers_score_the_same_answers(whole: Finished, run: Run, tmp_path: Path, verifier: str) -> None:
    if verifier == "command":
        script = tmp_path / "check.py"
        script.write_text(
            "import json, sys\ncase = json.load(sys.stdin)\n"
            "print(json.dumps({'reward': float(case['answer'] == case['truth'])}))\n"
        )
        verifier = f"command:{sys.executable} -I -S {script}"
    report = run("--verifier", verifier, "--generations", "0")
    assert report["sealed"]["initial"]["value"] == whole.report["sealed"]["initial"]["value"]


def test_a_shuffled_order_of_cases_changes_no_answer(sums: Path, tmp_path: Path, run: Run) -> None:
    """Splits are named in the file here, so that only the order differs."""
    lines = [json.loads(line) for line in (sums / "cases.jsonl").read_text().splitlines()]
    splits = ("public", "search", "gate", "sealed")
    cases = [{**line, "split": splits[index % 4]} for index, line in enumerate(lines)]
    reports = []
    for order in (cases, cases[::-1]):
        (sums / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in order))
        reports.append(run("--generations", "1"))
    assert comparable(reports[0]) == comparable(reports[1])


def test_sia_run_writes_the_report_alone_to_standard_output_and_its_progress_beside(sums: Path, tmp_path: Path) -> None:
    started = [sys.executable, "-m", "sia_cli", *command(sums, tmp_path), "--generations", "0"]
    result = subprocess.run(started, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["status"] == "finished"
    assert result.stderr.splitlines()
    assert "\x1b" not in result.stderr
