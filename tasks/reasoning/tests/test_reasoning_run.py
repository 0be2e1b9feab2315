"""A run from the command line, with the small policy from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sia_cli import main
from sia_core.run.ledger import Ledger
from sia_core.run.run_folders import runs_in

SIZES = ("--set", "search=16", "--set", "gate=12", "--set", "sealed=12")


def run(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    where = ("--runs-dir", str(folder / "runs"), "--json")
    assert main(["run", "--plugin", "reasoning", *SIZES, *options, *where]) == 0, capsys.readouterr().err
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.real
@pytest.mark.slow
def test_a_run_with_the_small_policy_ends_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(
        tmp_path, capsys, "--policy", "tiny", "--levers", "harness", "--generations", "1", "--budget", "rollouts=120"
    )
    assert report["sealed"]["initial"]["n"] == 12  # type: ignore[index]


@pytest.mark.real
@pytest.mark.slow
def test_a_run_on_a_data_set_of_the_library_scores_in_the_verifiers_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("reasoning_gym")
    run(tmp_path, capsys, "--set", "dataset=chain_sum", "--policy", "tiny", "--levers", "harness", "--generations", "0")
    with Ledger.read(*runs_in(tmp_path / "runs")) as ledger:
        batches = [batch for _, batch, _ in ledger.events("rollouts/search/")]
    outcomes = [each["outcome"] for batch in batches for each in batch["rollouts"]]
    assert outcomes
    assert set(outcomes) == {"ok"}


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        pytest.param("dataset=chain_sums", "did you mean 'chain_sum'", marks=pytest.mark.slow),
        ("difficulty=hard", "write a JSON object"),
        ("sealed=9999", "words has 424 sums"),
    ],
)
def test_a_wrong_setting_ends_the_command_with_what_to_do(
    pair: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if pair.startswith("dataset"):
        pytest.importorskip("reasoning_gym")
    assert main(["run", "--plugin", "reasoning", "--set", pair, "--runs-dir", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
