"""The demo: a whole run on the real LawBench data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sia_cli import main
from sia_core.cache import write_once
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.run.trees import Trees
from sia_reading.report import build
from sia_runtime.sandbox.namespaces import Namespaces
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOLDS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo run."""
    runs = tmp_path_factory.mktemp("runs")
    assert (
        main(
            [
                "run",
                "--plugin",
                "lawbench",
                "--levers",
                "harness",
                "--seed",
                "0",
                "--runs-dir",
                str(runs),
                "--name",
                "law",
            ]
        )
        == 0
    )
    return runs / "law"


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    with Ledger.read(folder) as ledger:
        return build(ledger)


def test_the_final_agent_is_right_on_77_percent_of_the_sealed_cases_and_the_first_one_stands_beside_it(
    report: dict[str, Any],
) -> None:
    final, initial = report["sealed"]["final"], report["sealed"]["initial"]
    assert final["n"] == initial["n"] == 913
    assert final["value"] >= 0.77
    assert initial["value"] < 0.5
    for score in (final, initial):
        assert score["ci95"][0] < score["value"] < score["ci95"][1]


def test_an_edit_was_accepted_and_one_was_not_and_what_was_compared_has_its_paired_interval(
    report: dict[str, Any],
) -> None:
    assert {row["accepted"] for row in report["generations"]} == {True, False}
    gated = [row for row in report["generations"] if row["gate"]]
    assert all(row["gate"]["ci95"][0] <= row["gate"]["delta"] <= row["gate"]["ci95"][1] for row in gated)


def test_the_sealed_score_is_within_two_points_of_the_same_harnesss_cross_validation_on_train(
    folder: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    tree = Trees(folder).get(report["agent"]["harness"])
    rights = list(_cross_validation(tree, tmp_path))
    assert len(rights) > 5000
    assert abs(fmean(rights) - report["sealed"]["final"]["value"]) <= 0.02


def test_the_exported_agent_names_charges(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "agent"
    assert main(["export", "law", str(target), "--runs-dir", str(folder.parent)]) == 0
    assert "scikit-learn==" in (target / "requirements.txt").read_text()
    assert len((target / "public" / "cases.jsonl").read_text(encoding="utf-8").splitlines()) > 5000


def _cross_validation(tree: HarnessTree, scratch: Path) -> Iterator[bool]:
    """Whether each labelled case is named right by the harness set up on the other folds."""
    task = Plugins.discover().create("task", "lawbench", seed=0)
    public = task.public_dir(("public", "search", "gate"))
    charges = (public / "charges.json").read_bytes()
    lines = (public / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    tree.write_to(scratch / "tree")
    for fold in range(FOLDS):
        training = "".join(line + "\n" for index, line in enumerate(lines) if index % FOLDS != fold)
        files = {"cases.jsonl": training.encode(), "charges.json": charges}
        held_out = {case["id"]: case for case in cases[fold::FOLDS]}
        worker = HarnessWorker(
            Namespaces(), scratch / "tree", tree.manifest, write_once(scratch / "public", files), task.limits
        )
        try:
            for result in worker.solve([_request(case) for case in held_out.values()]):
                answer = json.loads(result.answer or "{}")
                yield answer.get("charge") == held_out[result.key]["charge"]
        finally:
            worker.close()


def _request(case: dict[str, Any]) -> SolveRequest:
    return SolveRequest(case["id"], {"id": case["id"], "input": {"text": case["text"]}, "start": None}, 0)
