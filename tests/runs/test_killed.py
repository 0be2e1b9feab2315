"""A run that is killed with SIGKILL, at any moment, and resumed."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from command_runs import SIA, finished, kill_after, steps
from example_runs import command, comparable

pytestmark = pytest.mark.real


@pytest.mark.parametrize("instants", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_instants_and_resumed_the_report_is_the_same_and_no_finished_step_is_touched(
    sums: Path, tmp_path: Path, instants: int
) -> None:
    started = time.monotonic()
    whole = finished(command(sums, tmp_path / "whole"))
    lasted = time.monotonic() - started
    choose = random.Random(instants)
    for number in range(instants):
        runs = tmp_path / f"killed-{number}"
        name = _killed([*SIA, *command(sums, runs)], choose.uniform(0.3, lasted), runs / "runs")
        if name is None:  # it was killed before it had a folder, or had nothing recorded: nothing to resume
            continue
        before = steps(runs / "runs" / name)
        report = finished(["resume", name, "--runs-dir", str(runs / "runs"), "--json"])
        assert comparable(report) == comparable(whole)
        assert steps(runs / "runs" / name)[: len(before)] == before


def test_when_the_orchestrator_is_killed_nothing_of_the_run_lives_on(sums: Path, tmp_path: Path) -> None:
    hanging = "def solve(instance, ctx):\n    while True: pass\n"
    (sums / "agent" / "harness.py").write_text(hanging)
    process = subprocess.Popen([*SIA, *command(sums, tmp_path)], start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while len(_descendants(process.pid)) < 3:  # the verifier comes later; the sandbox and its forks are there
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = _descendants(process.pid)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while any(_alive(pid, born) for pid, born in family):
        assert time.monotonic() < deadline, "a process of the run outlived it"
        time.sleep(0.02)


def _killed(argv: list[str], after: float, runs: Path) -> str | None:
    """Start a run and kill it; its name, if there is anything to resume."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kill_after(process, after)
    names = sorted(os.listdir(runs)) if runs.is_dir() else []
    return names[0] if names and steps(runs / names[0]) else None


def _descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, start time) of every process below one."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append((int(entry), stat[19]))
    processes, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        processes += below
        todo += [child for child, _ in below]
    return processes


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, ..., start time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _alive(pid: int, born: str) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[19] == born and stat[0] != "Z"
