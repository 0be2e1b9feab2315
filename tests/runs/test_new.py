"""Output of `sia new`, as a stranger meets it: from built wheels, in a fresh environment, in an empty folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stranger import ROOT, Stranger, fresh

pytestmark = [pytest.mark.real, pytest.mark.slow]

WHEELS = (
    *("sia-core", "sia-runtime", "sia-weights", "sia-llm", "sia-cli", "sia-audit", "sia-compare", "sia-deploy"),
    *("sia-playbook", "sia-reading", "sia-released", "sia-testing", "sia-torch", "sia-adapters", "sia-algorithms"),
)
"""Wheels of this repository in `pip install sia-cli sia-testing sia-torch sia-algorithms`."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh(tmp_path_factory.mktemp("fresh"), WHEELS)


@pytest.fixture
def stranger(environment: Path, tmp_path: Path) -> Stranger:
    return Stranger(environment, tmp_path)


def report(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(process.stdout)
    return content


def test_the_environment_holds_the_wheels_and_not_the_source_tree(stranger: Stranger) -> None:
    code = "import sia_core, sia_torch; print(sia_core.__file__, sia_torch.__file__)"
    result = subprocess.run(
        [str(stranger.environment / "bin" / "python"), "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=stranger.folder,
    )
    assert all(Path(each).is_relative_to(stranger.environment) for each in result.stdout.split())


def test_a_task_runs_by_its_name_and_is_improved(stranger: Stranger) -> None:
    stranger.begin("task", "parity")
    content = report(stranger.sia("run", "--plugin", "parity", "--json"))
    assert content["sealed"]["final"]["value"] == 1.0
    assert [row["name"] for row in content["generations"] if row["accepted"]] == ["count"]


def test_a_verifier_scores_by_its_name(stranger: Stranger) -> None:
    package = stranger.begin("verifier", "words")
    what = ["--harness", str(package / "example" / "agent"), "--data", str(package / "example" / "cases.jsonl")]
    content = report(stranger.sia("run", *what, "--verifier", "words:and", "--generations", "0", "--json"))
    assert 0 < content["sealed"]["final"]["value"] < 1


def test_an_improver_improves_by_its_name(stranger: Stranger) -> None:
    stranger.begin("improver", "in-order")
    shutil.copytree(ROOT / "examples" / "sums", stranger.folder / "sums")
    what = ["--harness", "sums/agent", "--data", "sums/cases.jsonl", "--verifier", "exact"]
    content = report(stranger.sia("run", *what, "--improver", "in-order", "--json"))
    assert content["sealed"]["final"]["value"] > content["sealed"]["initial"]["value"]


PULLER = """
from sia_core.decision import Prediction, PullLever, RewriteHarness, Stop
from sia_core.harness import Write


class Puller:
    def draft(self, task, seed):
        return task.seed

    def decide(self, evidence):
        about = {"reason": "to see", "prediction": Prediction(gain=0.0)}
        if evidence.generation == 0:
            return [RewriteHarness(name=name, edits=(Write(path=name, text=name),), **about) for name in ("a", "b")]
        if evidence.generation == 1:
            files = evidence.about["graft"].data["files"]
            one, other = (next(agent for agent in files if name in files[agent]) for name in ("a", "b"))
            settings = {"from": other, "paths": ["b"]}
            return [PullLever(lever="graft", name="b to a", settings=settings, parent=one, **about)]
        return [Stop(reason="enough")]
"""


def test_a_lever_is_pulled_by_its_name(stranger: Stranger) -> None:
    stranger.begin("lever", "graft")
    package = stranger.begin("improver", "puller")
    (package / "src" / "sia_puller" / "improver.py").write_text(PULLER)
    stranger.install(package)
    shutil.copytree(ROOT / "examples" / "sums", stranger.folder / "sums")
    what = ["--harness", "sums/agent", "--data", "sums/cases.jsonl", "--verifier", "exact"]
    content = report(stranger.sia("run", *what, "--levers", "harness,graft", "--improver", "puller", "--json"))
    row = content["generations"][-1]
    assert (row["lever"], row["name"]) == ("graft", "b to a")
    assert row["gate"] is not None
    assert "+b" in stranger.sia("show", "--candidate", "1.0").stdout
    assert "harness, weights" in stranger.sia("run", *what, "--levers", "magic", code=2).stderr


def test_an_algorithm_trains_by_its_name(stranger: Stranger) -> None:
    stranger.begin("algorithm", "mine")
    shutil.copytree(ROOT / "examples" / "words", stranger.folder / "words")
    what = ["--harness", "words/agent", "--data", "words/cases.jsonl", "--verifier", "exact"]
    how = ["--levers", "weights", "--improver-set", "algorithm=mine", "--generations", "1", "--candidates", "1"]
    content = report(stranger.sia("run", *what, *how, "--train", "steps=4", "--json"))
    (row,) = content["generations"]
    assert row["algorithm"] == "mine"
    assert row["gate"] is not None


def test_an_engine_answers_by_its_name(stranger: Stranger) -> None:
    stranger.begin("engine", "table")
    shutil.copytree(ROOT / "examples" / "words", stranger.folder / "words")
    what = ["--harness", "words/agent", "--data", "words/cases.jsonl", "--verifier", "exact"]
    stranger.sia("run", *what, "--engine", "table", "--policy", "table", "--generations", "0", "--json")


def test_a_backend_is_listed_by_its_name(stranger: Stranger) -> None:
    stranger.begin("backend", "threads")
    rows = json.loads(stranger.sia("plugins", "--json").stdout)
    assert ("backend", "threads", "ok") in {(row["kind"], row["name"], row["status"]) for row in rows}


def test_a_command_runs_by_its_name(stranger: Stranger) -> None:
    package = stranger.begin("command", "my-files")
    assert "harness.py" in stranger.sia("my-files", str(ROOT / "examples" / "sums" / "agent")).stdout
    assert package.name in stranger.sia("plugins", "--json").stdout


def test_the_tutorial_of_a_task_ends_with_it_running(stranger: Stranger) -> None:
    printed = stranger.follow(ROOT / "docs" / "tutorial-task.md")
    assert "final agent    1.0000" in printed["sia report"]
    assert (stranger.folder / "best-agent" / "run.py").is_file()


def test_the_tutorial_of_an_algorithm_ends_with_it_having_trained(stranger: Stranger) -> None:
    printed = stranger.follow(ROOT / "docs" / "tutorial-algorithm.md")
    (run,) = (text for command, text in printed.items() if "algorithm=ranked" in command)
    assert "weights (ranked)" in run  # whether it is promoted is the gate's word
    (output,) = (text for command, text in printed.items() if command == "sia show")
    assert "took:" in output


def test_a_clash_a_broken_plugin_and_one_of_another_version_stop_only_who_asks_for_them(stranger: Stranger) -> None:
    folders = []
    for name in ("one", "two", "broken", "old"):
        stranger.sia("new", "task", name)
        folders.append(stranger.folder / f"sia-{name}")
    changes = {"one": ('"one"', '"both"'), "two": ('"two"', '"both"'), "broken": ("import Offer", "import Offers")}
    for name, (before, after) in {**changes, "old": ("sia_api = 1", "sia_api = 0")}.items():
        plugin = stranger.folder / f"sia-{name}" / "src" / f"sia_{name}" / "plugin.py"
        plugin.write_text(plugin.read_text().replace(before, after))
    stranger.install(*folders)
    rows = json.loads(stranger.sia("plugins", "--json").stdout)
    assert [row["status"] for row in rows if (row["kind"], row["name"]) == ("task", "both")] == ["ambiguous"] * 2
    causes = {row["name"]: row["cause"] for row in rows if row["status"] == "broken"}
    assert "Offers" in causes["broken"]
    assert "sia_api 0" in causes["old"]
    assert "sia-one" in stranger.sia("run", "--plugin", "both", code=2).stderr
    assert "sia-broken" in stranger.sia("run", "--plugin", "broken", code=2).stderr
    shutil.copytree(ROOT / "examples" / "sums", stranger.folder / "sums")
    what = ["--harness", "sums/agent", "--data", "sums/cases.jsonl", "--verifier", "exact"]
    stranger.sia("run", *what, "--generations", "0")
