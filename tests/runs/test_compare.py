"""A comparison through the command line: stopped, continued, and read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_cli import main

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize(
    ("stop", "interrupt"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # as shells start what is in the background
    ],
)
def test_a_comparison_that_was_stopped_goes_on_and_its_runs_are_normal_ones(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: signal.Signals, interrupt: signal.Handlers
) -> None:
    folder = str(tmp_path / "compared")
    task = ["--harness", str(sums / "agent"), "--data", str(sums / "cases.jsonl"), "--verifier", "exact"]
    how = ["--arms", "none,harness,best-of-n", "--seeds", "1", "--budget", "rollouts=2000", "--jobs", "2"]
    command = [sys.executable, "-m", "sia_cli", "compare", folder, *task, *how]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "none-0 is finished" in line:
                process.send_signal(stop)
        assert process.wait() == 130
    assert _status(folder, capsys)["none-0"] == "finished"

    assert main(["compare", folder, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["finished"] == report["runs"] == 3
    scores = {arm["arm"]: arm["final"]["value"] for arm in report["arms"]}
    assert scores["harness"] > scores["best-of-n"] > scores["none"]
    assert set(_status(folder, capsys).values()) == {"finished"}


def _status(folder: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The status of each run of a folder, as `sia runs` lists them."""
    assert main(["runs", "--runs-dir", folder, "--json"]) == 0
    return {row["run"]: row["status"] for row in json.loads(capsys.readouterr().out)}
