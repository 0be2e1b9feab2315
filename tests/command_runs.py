"""Runs of the command ``sia`` as separate processes, some of which are killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from example_runs import command, comparable

from sia_testing.model_server import Asked, ModelServer, Turn

SIA = [sys.executable, "-m", "sia_cli"]


def finished(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON that a command prints, which has to end well; ``environment`` comes on top of this process's."""
    variables = {**os.environ, **(environment or {})}
    result = subprocess.run([*SIA, *arguments], capture_output=True, text=True, check=False, env=variables)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Kill a command that has not ended within some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def steps(run: Path) -> list[tuple[int, str, str]]:
    """The number, key and chain of each step that a run has recorded, which may have only begun."""
    if not (run / "ledger.db").is_file():
        return []
    with sqlite3.connect(run / "ledger.db") as ledger:
        try:
            rows = ledger.execute("SELECT seq, key, chain FROM events ORDER BY seq").fetchall()
        except sqlite3.OperationalError:  # the table is not there yet
            rows = []
    ledger.close()
    return rows


def check_killed_at_calls(
    calls: Iterable[int],
    play: Callable[[Asked], Turn],
    of_all: int,
    sums: Path,
    folder: Path,
    options: Callable[[ModelServer], list[str]],
) -> None:
    """The example's run, killed at a call of a model and resumed, pays for one call again and changes nothing else."""
    with ModelServer(play) as server:
        whole = finished([*command(sums, folder / "whole"), *options(server)])
        assert len(server.asked) == of_all
    for call in calls:
        process: list[subprocess.Popen[bytes]] = []

        def kills(request: Asked, call: int = call, process: Any = process) -> Turn:
            if request.number == call:
                os.kill(process[0].pid, signal.SIGKILL)
            return play(request)

        with ModelServer(kills) as server:
            argv = [*SIA, *command(sums, folder / f"killed-{call}"), *options(server)]
            process.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            assert process[0].wait() == -signal.SIGKILL
            report = finished(["resume", "--json", "--runs-dir", str(folder / f"killed-{call}" / "runs")])
            assert len(server.asked) == of_all + 1
        assert _without_dollars(report) == _without_dollars(whole)
        assert report["budget"]["spent"]["dollars"] > whole["budget"]["spent"]["dollars"]


def _without_dollars(report: dict[str, Any]) -> dict[str, Any]:
    same = comparable(report)
    return {**same, "models": "", "budget": {**same["budget"], "spent": {**same["budget"]["spent"], "dollars": 0}}}
