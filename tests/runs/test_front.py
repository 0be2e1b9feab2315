"""Runs that are started from Python: ordinary folders, in notebooks too, and stopped without a loss."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sia_core
from sia_core.errors import SiaError
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_core.run.ledger import is_run
from sia_core.view_protocol import View

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
ROWS = [{"input": f"{a} plus {b}", "answer": a + b} for a in range(7) for b in range(7)]


def first(instance: Any, ctx: Any) -> Any:
    return int(instance.input["text"].split()[0])


def adds(instance: Any, ctx: Any) -> Any:
    """Adds both numbers."""
    a, _, b = instance.input["text"].split()
    return int(a) + int(b)


def right(answer: Any, case: Any) -> bool:
    return bool(answer == case["answer"])


def looks(instance: Any, ctx: Any) -> Any:
    """Looks for what only a process outside of the sandbox has."""
    return [os.getpid(), "sia_core" in sys.modules, os.path.exists(instance.input["place"])]


def sees(answer: Any, case: Any) -> float:
    """Whether the agent saw none of it, and this process does, which is neither the agent's nor the caller's."""
    pid, loaded, there = answer
    visible = loaded or there or not os.path.exists(case["input"]["place"])
    return float(not visible and os.getpid() not in (pid, case["answer"]))


def strict(answer: Any, case: Any) -> float:
    return float(answer["sum"] == case["answer"])


def silent(event: Event) -> None:
    """No progress is shown."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_a_run_from_python_is_an_ordinary_run_for_every_command(runs: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run = sia_core.improve(first, ROWS, right, improver=[adds], folder=runs, name="sums", on_event=events.append)
    assert run.report["sealed"]["final"]["value"] == 1.0
    assert [event.kind for event in events][-1] == "run.finished"
    assert [each.name for each in runs.iterdir() if is_run(each)] == ["sums"]
    for command in (["show", "sums", "--json"], ["resume", "sums", "--json"]):
        argv = [sys.executable, "-m", "sia_cli", *command, "--runs-dir", str(runs)]
        result = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(result.stdout)["sealed"] == run.report["sealed"]
    view: View = Plugins.discover().create("view", "dashboard")
    assert "adds" in view.page(run.folder)


def test_a_run_has_its_rollouts_its_agent_and_its_export(runs: Path, tmp_path: Path) -> None:
    run = sia_core.improve(first, ROWS, "exact", improver=[adds], folder=runs, on_event=silent)
    rollouts = run.rollouts("search")
    assert set(rollouts["expected"]) <= set(range(13))
    assert set(rollouts["reward"]) == {0.0, 1.0}
    for hidden in ("gate", "sealed"):  # whoever reads on must not learn the answers that decide
        assert set(run.rollouts(hidden)["expected"]) == {None}
    assert len(run.failures) == 0
    assert run.agent("20 plus 3") == 23
    with pytest.raises(SiaError, match=r"the agent failed: .*ValueError"):
        run.agent("many plus 3")
    run.agent.close()
    answers = subprocess.run(
        [sys.executable, "run.py"],
        cwd=run.export(tmp_path / "best"),
        input='"1 plus 2"',
        capture_output=True,
        text=True,
    )
    assert json.loads(answers.stdout) == {"answer": 3}


def test_an_agents_function_runs_in_the_sandbox_and_a_verifiers_in_its_process(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "place").touch()
    rows = [{"n": n, "place": str(tmp_path / "place"), "answer": os.getpid()} for n in range(24)]
    run = sia_core.improve(looks, rows, sees, folder=runs, on_event=silent)
    assert set(run.rollouts("gate")["reward"]) == {1.0}, run.rollouts("gate")["answer"].tolist()


def test_failures_show_what_was_asked_and_expected_and_answered(runs: Path) -> None:
    run = sia_core.improve(first, ROWS, right, folder=runs, on_event=silent, config={"generations": 0})
    failures = run.failures
    assert set(failures["purpose"]) <= {"search", "gate"}
    searched = failures[failures["purpose"] == "search"]
    assert len(searched)
    assert not (searched["answer"] == searched["expected"]).any()
    assert failures[failures["purpose"] == "gate"]["expected"].isna().all()
    worst = failures.iloc[0]
    assert worst["input"]["text"].startswith(f"{worst['answer']} plus")


def test_a_verifier_that_fails_says_on_which_answer(runs: Path) -> None:
    with pytest.raises(SiaError, match=r"strict\(\d, case \w+\) gave no score: TypeError"):
        sia_core.improve(first, ROWS, strict, folder=runs, on_event=silent)


def test_a_task_of_a_plugin_needs_nothing_else(runs: Path) -> None:
    run = sia_core.improve(
        "reasoning", folder=runs, seed=1, on_event=silent, config={"generations": 0}, budget={"rollouts": 5000}
    )
    assert run.report["status"] == "finished"


def test_a_task_that_is_cancelled_leaves_a_run_that_can_be_resumed(runs: Path) -> None:
    started: list[str] = []

    async def main() -> None:
        work = asyncio.ensure_future(
            sia_core.improve_async(
                first, ROWS, right, folder=runs, name="cut", on_event=lambda event: started.append(event.kind)
            )
        )
        while "run.started" not in started:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())
    (run,) = sia_core.runs(runs)
    assert run.report["status"] == "unfinished"
    assert asyncio.run(run.resume_async(on_event=silent)).report["status"] == "finished"


# Notebooks


def test_the_example_notebook_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "python" / "sums.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("<svg" in output["data"].get("text/html", "") for output in outputs)
    assert "8" in [output["data"].get("text/plain") for output in outputs]


class Kernel:
    """A kernel of Jupyter in a folder."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(cwd=str(folder))

    def run(self, code: str, stop_at: str = "") -> str:
        """The texts of a cell's outputs; the stop button is pressed at the first that holds ``stop_at``."""
        number, texts, began = self._client.execute(code), "", time.monotonic()
        while time.monotonic() - began < 60:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            content = message["content"]
            if message["parent_header"].get("msg_id") != number:
                continue
            text = content.get("data", {}).get("text/plain") or content.get("evalue") or content.get("text") or ""
            texts += f"{content.get('ename', '')} {text}\n"
            if stop_at and stop_at in text:
                self._manager.interrupt_kernel()
                stop_at = ""
            if content.get("execution_state") == "idle":
                return texts
        raise TimeoutError(texts)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    pytest.importorskip("ipykernel")
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.close()


CELL = """
import sia_core

def solve(instance, ctx):
    import time
    time.sleep(0.2)
    return 0

def right(answer, case):
    return answer == case["answer"]

rows = [{"input": number, "answer": number} for number in range(80)]
"""


@pytest.mark.parametrize("call", ["sia_core.improve(", "await sia_core.improve_async("])
def test_the_stop_button_stops_a_run_and_the_notebook_goes_on(kernel: Kernel, tmp_path: Path, call: str) -> None:
    kernel.run(CELL)
    stopped = kernel.run(f"{call}solve, rows, right, name='stopped')", stop_at="sandbox")
    assert "KeyboardInterrupt" in stopped or "CancelledError" in stopped
    assert kernel.run("sia_core.open_run('stopped')").strip().endswith("unfinished>")
    if "await" not in call:
        assert "go on with sia_core.open_run('runs/stopped').resume()" in stopped
