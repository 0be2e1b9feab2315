"""A run is priced before it starts: by its plan, and by a handful of real rollouts; nothing stays."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, command

from sia_cli import main, pricing
from sia_cli.pricing import count
from sia_core.run.plan import Plan, Samples
from sia_core.run.rollouts import BATCH
from sia_weights.lever import WeightLever


def samples(repeats: int = 1) -> Samples:
    names = [tuple(f"{split}{n}" for n in range(size)) for split, size in (("g", 900), ("s", 400))]
    return Samples(("a", "b"), tuple(str(n) for n in range(256)), names[0], names[1], (), repeats)


def test_the_parts_of_a_run_are_counted_at_least_and_at_most() -> None:
    counts = count(samples(), Plan(generations=3, candidates=2), {})
    assert counts["first_agent"] == counts["candidate"]["most"] == 2 + 256 + 900
    assert counts["report"] == {"least": 400, "most": 800}
    assert counts["robustness"] == {"least": 0, "most": 7 * 400}  # five incumbents between, and two in another guise
    assert counts["run"] == {"least": 1158 + 400, "most": 7 * 1158 + 800 + 7 * 400}


def test_repeats_and_an_update_are_counted_and_a_budget_is_the_most() -> None:
    assert count(samples(3), Plan(repeats=3), {})["first_agent"] == 2 + 256 + 2700
    assert count(samples(), Plan(), {}, levers=[WeightLever()])["update"] > 0
    assert count(samples(), Plan(), {"rollouts": 5000.0})["run"]["most"] == 5000
    assert count(samples(), Plan(generations=0), {})["run"] == {"least": 1558, "most": 1958 + 400}


@pytest.mark.real
def test_a_dry_run_prices_what_the_run_then_takes_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    arguments = [*command(EXAMPLE, tmp_path), "--generations", "1"]
    price = told_by([*arguments, "--dry-run"], capsys)
    assert sorted(tmp_path.iterdir()) == [scratch]
    assert not any(scratch.iterdir())
    assert price["measured"]["rollouts"] == 16
    assert price["tokens"] is None
    assert 0 < price["seconds"]["least"] < price["seconds"]["most"]
    report = told_by(arguments, capsys)
    assert report["sandbox"] == price["sandbox"]
    assert report["smallest_gain"] == price["gate"]["smallest_gain"]
    assert (
        price["rollouts"]["run"]["least"] <= report["budget"]["spent"]["rollouts"] <= price["rollouts"]["run"]["most"]
    )


@pytest.mark.real
def test_a_dry_run_is_told_to_people_and_refuses_what_a_run_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [each for each in command(EXAMPLE, tmp_path) if each != "--json"]
    assert main([*arguments, "--dry-run", "--budget", "seconds=0.001"]) == 0
    output = capsys.readouterr().out
    assert "Nothing was started" in output
    assert "more instances would halve that" in output
    assert "--budget seconds=0.001 does not cover the least" in output
    assert main([*arguments, "--dry-run", "--budget", f"rollouts={BATCH}"]) == 2
    assert "too small" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "why"), [("../elsewhere", "a run's name holds"), ("taken", "sia resume taken")])
def test_a_dry_run_refuses_the_name_that_its_run_would_be_refused_for(
    name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "ledger.db").touch()
    assert main([*command(EXAMPLE, tmp_path), "--dry-run", "--name", name]) == 2
    assert why in capsys.readouterr().err


def told_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(arguments) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.real
def test_a_plan_says_what_the_run_takes_on_many_workers_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pricing, "_booking", lambda ledger, rows: 0.001)  # a disk that is busy books slowly
    arguments = command(EXAMPLE, tmp_path)
    place = arguments.index("--runs-dir")
    words = ["plan", *arguments[1:place], "--dollars-per-hour", "2", "--generations", "1"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "driver load" in output
    assert "1,024" in output
    price = told_by([*words, "--json"], capsys)
    first, *rest = price["workers"]
    assert first["workers"] == 1
    assert first["seconds"] == pytest.approx(price["seconds"]["most"], rel=0.01, abs=0.2)  # of parts that are rounded
    assert all(row["seconds"] <= first["seconds"] for row in rest)
    assert all(row["dollars"] == round(2 * row["worker_hours"], 2) for row in price["workers"])
    assert not any(tmp_path.iterdir())


@pytest.mark.real
@pytest.mark.slow
def test_a_dry_run_says_what_memory_training_takes_in_all_of_its_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = EXAMPLE.parent / "words"
    case = ["--harness", str(words / "agent"), "--data", str(words / "cases.jsonl"), "--verifier", "exact"]
    arguments = ["run", *case, "--runs-dir", str(tmp_path), "--policy", "tiny", "--levers", "weights", "--dry-run"]
    shared = ["--engine-set", "processes=3"]
    alone, three = (told_by([*arguments, "--json", *more], capsys)["measured"]["memory"] for more in ([], shared))
    assert three > 2 * alone > 0
    assert main(arguments) == 0
    assert "GiB at most, while the policy is trained" in capsys.readouterr().out
