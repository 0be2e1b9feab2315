"""Whole runs in which the policy learns: the embedded one, the real engine, gateway, sandbox and learners."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_runs import SIA, finished, steps
from example_runs import comparable, smaller

from sia_cli import main

pytestmark = pytest.mark.real
pytest.importorskip("torch", reason="the weight lever's engine is not installed")

WORDS = Path(__file__).parents[2] / "examples" / "words"


def argv(folder: Path, *more: str, words: Path = WORDS) -> list[str]:
    case = ["--harness", str(words / "agent"), "--data", str(words / "cases.jsonl"), "--verifier", "exact"]
    return ["run", *case, "--runs-dir", str(folder), "--json", *more]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with 60 cases a split."""
    return smaller(WORDS, tmp_path_factory.mktemp("words") / "few", 240)


@pytest.fixture(scope="module")
def hurried(few: Path) -> dict[str, Any]:
    """The report of a run with too little time for its only update; it lies in ``few / "runs"``."""
    more = ("--levers", "weights", "--generations", "1", "--budget", "seconds=12")
    return finished(argv(few / "runs", *more, words=few))


def test_an_update_that_ends_early_is_gated_with_what_it_had_learned(few: Path, hurried: dict[str, Any]) -> None:
    (row,) = hurried["generations"]
    assert row["lever"] == "weights"
    assert row["stopped"]  # by its time on a slow machine, by how far it moved on a fast one
    assert row["took"]["steps"] < row["planned"]
    assert row["gate"] is not None
    assert hurried["sealed"]["final"]["n"] == 60
    assert main(["replay", "--runs-dir", str(few / "runs"), hurried["run"]]) == 0


@pytest.mark.slow
def test_a_policy_is_asked_but_not_trained_where_only_the_harness_lever_is_pulled(tmp_path: Path, few: Path) -> None:
    report = finished(argv(tmp_path, "--policy", "tiny", "--generations", "0", words=few))
    assert report["policy"]["settings"]["policy"] == "tiny"
    assert report["budget"]["spent"]["tokens"] > 0
    assert report["agent"]["adapter"] is None


def test_an_exported_agent_asks_its_policy(tmp_path: Path, few: Path, hurried: dict[str, Any]) -> None:
    target = tmp_path / "exported"
    assert main(["export", hurried["run"], str(target), "--runs-dir", str(few / "runs")]) == 0
    assert (target / "adapter" / "adapter_model.safetensors").exists() == (hurried["agent"]["adapter"] is not None)
    assert "sia-torch==" in (target / "requirements.txt").read_text()
    texts = [json.loads(line)["input"]["text"] for line in (WORDS / "cases.jsonl").read_text().splitlines()[:5]]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    result = subprocess.run(
        [sys.executable, str(target / "run.py")], input=lines, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line)["answer"] for line in result.stdout.splitlines()]
    assert len(answers) == 5
    assert set(answers) <= {"red", "green", "blue", "black"}
    assert set(answers) != {"red"}  # what it would say without a policy


@pytest.mark.slow
def test_the_policy_learns_what_the_words_mean(tmp_path: Path) -> None:
    report = finished(argv(tmp_path, "--levers", "weights", "--generations", "1", "--train", "steps=12"))
    assert report["sealed"]["initial"]["value"] < 0.4
    assert report["sealed"]["final"]["value"] > 0.9
    first = report["generations"][0]
    assert first["accepted"]
    assert first["table"].startswith(first["algorithm"])
    assert report["agent"]["adapter"]


@pytest.mark.slow
def test_killed_in_the_middle_of_an_update_and_resumed_the_adapter_is_the_same(tmp_path: Path) -> None:
    more = ("--levers", "weights", "--generations", "1", "--seed", "5", "--train", "steps=8,durable=4")
    whole = finished(argv(tmp_path / "whole", *more))
    assert whole["agent"]["adapter"]
    for step in (0, 4):
        runs = tmp_path / f"killed-{step}"
        process = subprocess.Popen(
            [*SIA, *argv(runs, *more, "--name", "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        after = f"generation/0/train/0/{step:05d}" if step else "generation/0/train/0/estimate"
        wait_for(runs / "killed", after, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumed = finished(["resume", "--runs-dir", str(runs), "--json"])
        assert resumed["agent"] == whole["agent"]
        assert counted(resumed) == counted(whole)


def wait_for(run: Path, key: str, process: subprocess.Popen[bytes]) -> None:
    """Until a step is recorded, and a little longer: the next one is under way then."""
    deadline = time.monotonic() + 300
    while key not in (each for _, each, _ in steps(run)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)


def counted(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what a clock says, in reasons too, or how much memory two processes took."""
    rows = [
        {**row, "reason": "", "estimate": None, "took": {**row["took"], "seconds": 0, "memory": 0}}
        for row in report["generations"]
    ]
    return {**comparable(report), "generations": rows}
