"""Whole runs of a task to discover: the example's board, its evaluations, its archive and its best answer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_runs import SIA, finished, kill_after
from example_runs import comparable
from plugin_sites import write_metadata

from sia_core.errors import SiaError
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord

pytestmark = pytest.mark.real

PEAKS = Path(__file__).parents[2] / "examples" / "peaks"
Whole = tuple[Path, dict[str, Any], float]
"""The folder of an uninterrupted run, its report, and the seconds that it took."""

ARGUMENTS = ["--plugin", "peaks", "--seed", "1", "--generations", "3", "--candidates", "1", "--json"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example as it is installed."""
    site = tmp_path_factory.mktemp("site")
    write_metadata(site, "sia-peaks", "[sia]\npeaks = sia_peaks\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(PEAKS)])}


@pytest.fixture(scope="module")
def whole(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    runs = tmp_path_factory.mktemp("runs")
    started = time.monotonic()
    report = finished(["run", *ARGUMENTS, "--runs-dir", str(runs)], environment)
    return runs, report, time.monotonic() - started


def test_the_best_answer_of_the_run_is_what_is_reported(whole: Whole) -> None:
    _, report, _ = whole
    assert report["kind"] == "discover"
    square = json.loads(report["answer"]["answer"])
    assert square.keys() == {"column", "row"}
    assert report["sealed"]["final"]["value"] >= report["sealed"]["initial"]["value"]
    assert report["sealed"]["final"]["n"] == 12


def test_every_answer_that_was_scored_is_booked(whole: Whole) -> None:
    runs, report, _ = whole
    with Ledger.read(runs / report["run"]) as ledger:
        rolled = [(key, each) for key, batch, _ in ledger.events("rollouts/") for each in batch["rollouts"]]
        rollouts = [each for _, each in rolled]
        finals = [each for _, scored, _ in ledger.events("answers/") for each in scored]
        assert RunRecord(ledger).spent() == pytest.approx(report["budget"]["spent"])
    # A square that is looked at again is not scored again.
    looks = [len(each["evaluated"]) for key, each in rolled if key.startswith("rollouts/gate/")]
    assert max(looks) == 8
    assert min(looks) > 4
    scored = len(rollouts) + sum(len(each["evaluated"]) for each in rollouts) + len(finals)
    assert report["budget"]["spent"]["verifications"] == scored


def test_searches_start_from_earlier_answers_and_those_that_decide_do_not(whole: Whole) -> None:
    runs, report, _ = whole
    with Ledger.read(runs / report["run"]) as ledger:
        searched = [batch["rollouts"] for key, batch, _ in ledger.events("rollouts/search/")]
        gated = [each for _, batch, _ in ledger.events("rollouts/gate/") for each in batch["rollouts"]]
    assert all(each["start"] is None for each in searched[0])
    assert all(each["start"] for rollouts in searched[1:] for each in rollouts)
    assert all(each["start"] is None for each in gated)


def test_the_answer_is_exported_as_the_tasks_own_files(
    whole: Whole, environment: dict[str, str], tmp_path: Path
) -> None:
    runs, report, _ = whole
    command = [*SIA, "export", report["run"], str(tmp_path / "best"), "--runs-dir", str(runs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Wrote the best answer of ")
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"README.md", "answer.json", "square.json"}
    assert (tmp_path / "best" / "answer.json").read_text() == report["answer"]["answer"]


def test_todays_code_does_the_same_again(whole: Whole, environment: dict[str, str]) -> None:
    runs, report, _ = whole
    assert finished(["replay", report["run"], "--runs-dir", str(runs), "--json"], environment)["agrees"]


def test_an_unfinished_run_has_no_answer_to_export(environment: dict[str, str], tmp_path: Path) -> None:
    name = _killed(["run", *ARGUMENTS, "--runs-dir", str(tmp_path)], 0.0, tmp_path, environment)
    command = [*SIA, "export", name, str(tmp_path / "best"), "--runs-dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2
    assert "has no answer: it is not finished; `sia resume" in result.stderr
    assert not (tmp_path / "best").exists()


def test_a_run_of_the_same_seed_draws_otherwise_unless_it_is_given_the_secret(
    whole: Whole, environment: dict[str, str], tmp_path: Path
) -> None:
    runs, report, _ = whole
    again = ["run", *ARGUMENTS, "--runs-dir", str(tmp_path)]
    other = finished(again, environment)
    same = finished([*again, "--secret", str(runs / report["run"] / "secret")], environment)
    assert comparable(same) == comparable(report) != comparable(other)


def test_a_secret_that_is_none_is_the_users_mistake(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine\n")
    command = [*SIA, "run", *ARGUMENTS, "--runs-dir", str(tmp_path / "runs"), "--secret"]
    for path, says in ((tmp_path / "secret", "is no file with a secret"), (tmp_path / "none", "No such file")):
        result = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, env=environment)
        assert result.returncode == 2
        assert "--secret" in result.stderr
        assert says in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("instants", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_and_resumed_the_report_is_the_same(
    whole: Whole, environment: dict[str, str], tmp_path: Path, instants: int
) -> None:
    choose = random.Random(instants)
    for number in range(instants):
        runs = tmp_path / str(number)
        runs.mkdir()
        after = choose.uniform(0.0, whole[2])
        secret = ["--secret", str(whole[0] / whole[1]["run"] / "secret")]  # or its verifier draws otherwise
        name = _killed(["run", *ARGUMENTS, *secret, "--runs-dir", str(runs)], after, runs, environment)
        report = finished(["resume", name, "--runs-dir", str(runs), "--json"], environment)
        assert comparable(report) == comparable(whole[1])


def _killed(arguments: list[str], after: float, runs: Path, environment: dict[str, str]) -> str:
    """Start a run and kill it some ``seconds`` after its first step is recorded, if it still runs; its name."""
    process = subprocess.Popen(
        [*SIA, *arguments, "--name", "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 60
    while not _begun(runs / "killed"):
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.01)
    kill_after(process, after)
    return "killed"


def _begun(folder: Path) -> bool:
    try:
        with Ledger.read(folder) as ledger:
            return ledger.get("sandbox") is not None
    except SiaError:
        return False
