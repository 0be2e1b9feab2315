"""Tasks of the released SIA: its folders as they are, its other tasks by name against a stand-in model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_runs import finished
from plugin_sites import write_metadata
from released import AGENT, task_folder

from sia_cli import main
from sia_testing.model_server import Asked, ModelServer, Turn, Use

pytestmark = [pytest.mark.real, pytest.mark.slow]

Run = Callable[..., dict[str, Any]]

NOSY = """
import glob
here = glob.glob(options.dataset_dir + "/**", recursive=True)
labelled = [path for path in here if path.endswith("labelled/answers.json")]  # once the run is closed
known = {name for path in labelled for name in json.load(open(path))}
assert not known & set(answers), "it holds an answer to what is asked"
assert not [path for path in here if "private" in path or "answers" in path and path not in labelled], here
assert len(questions) == 1, questions
"""
"""An agent that looks for what it must not find, and fails where it does."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in its own process: litellm warns of itself, and here a warning is an error."""
    environment = {**os.environ, "OPENAI_API_KEY": "sk-any"}

    def start(*options: str) -> dict[str, Any]:
        return finished(["run", "--runs-dir", str(tmp_path / "runs"), "--json", *options], environment)

    return start


def served(server: ModelServer) -> list[str]:
    """The options that have harnesses ask the stand-in."""
    return ["--policy", "openai/any", "--engine", "litellm", "--engine-set", f"base_url={server.openai_url}"]


def improver(server: ModelServer) -> list[str]:
    """The options that have the stand-in decide."""
    free = [f"--improver-set={side}_price=0" for side in ("input", "output")]
    return ["--improver", "litellm:openai/any", "--improver-set", f"base_url={server.openai_url}", *free]


def test_a_folder_runs_as_it_is_and_is_improved(run: Run, tmp_path: Path) -> None:
    report = run("--task-dir", str(task_folder(tmp_path / "larger")))
    assert 0.2 < report["sealed"]["initial"]["value"] < 0.8
    assert report["sealed"]["final"]["value"] == 1.0


def test_the_agent_sees_no_answers_and_no_other_questions(run: Run, tmp_path: Path) -> None:
    nosy = AGENT + NOSY
    folder = task_folder(tmp_path / "larger", agent=nosy)
    report = run("--task-dir", str(folder), "--generations", "0")
    assert report["sealed"]["initial"]["value"] > 0  # it got through: no assertion failed


def test_an_imported_folder_is_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = task_folder(tmp_path / "Larger_Number")
    (folder / ".env").write_text("KEY=secret")
    assert main(["import-task", str(folder), "--into", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "sia run --plugin larger-number" in printed
    assert "left out, as their names begin with a dot: .env" in printed
    package = tmp_path / "sia-larger-number"
    assert not list(package.rglob(".env"))
    write_metadata(package / "src", "sia-larger-number", "[sia]\nlarger-number = sia_larger_number.plugin\n")
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    python("pytest", "-q", "-p", "no:cacheprovider", str(package))
    report = json.loads(python("sia_cli", "run", "--plugin", "larger-number", "--json"))
    assert report["sealed"]["final"]["value"] == 1.0


def test_a_folder_that_cannot_run_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = task_folder(tmp_path / "larger")
    (folder / "data" / "public" / "evaluate.py").unlink()
    assert main(["import-task", str(folder), "--into", str(tmp_path / "out")]) == 2
    assert "no evaluate.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def letters(request: Asked) -> Turn:
    """Replies of a model that knows no science, in the asker's format; as an improver, it stops."""
    tools = {tool["function"]["name"] for tool in request.body.get("tools") or ()}
    if "decide" in tools:
        return Turn(uses=[Use("decide", {"changes": [{"lever": "stop", "reason": "enough"}]})])
    if "knight" in request.text:
        return Turn("solution = 218")
    if "FEN" in request.text:
        return Turn('I would play solution = ["c4", "bxc4", "bxc4"]')
    return Turn(json.dumps({"answer": "B"})) if re.search("JSON only", request.text) else Turn("Surely.\nAnswer: B")


@pytest.mark.parametrize(("task", "sealed"), [("gpqa", 66), ("longcot-chess", 17)])
def test_a_task_that_asks_a_model_runs_by_its_name(task: str, sealed: int, run: Run) -> None:
    with ModelServer(letters) as server:
        report = run("--plugin", task, *served(server), *improver(server))
        count = len(server.asked)
    assert report["sealed"]["final"]["n"] == sealed
    assert 0 <= report["sealed"]["final"]["value"] < 0.6  # it knows no science
    assert count >= 3 * sealed


def test_the_released_folder_of_gpqa_runs_with_its_own_agent_and_script(run: Run, tmp_path: Path) -> None:
    import zipfile

    from sia_bundled.questions import Gpqa

    wheel = Gpqa()._data.source.path
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("sia/tasks/gpqa/")])
    with ModelServer(letters) as server:
        report = run("--task-dir", str(tmp_path / "sia" / "tasks" / "gpqa"), *served(server), "--generations", "0")
    assert 0.05 < report["sealed"]["final"]["value"] < 0.6
