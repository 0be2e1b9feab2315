"""The agents of docs/porting.md run in the sandbox, and what goes wrong in a first attempt is said with a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox.conftest import probed
from stranger import blocks

from sia_cli import main
from sia_core.harness import HarnessTree
from sia_core.types import Limits
from sia_runtime.sandbox.contract import Sandbox
from sia_runtime.sandbox_hints import hints
from sia_runtime.worker.gateway import Gateway
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest, SolveResult
from sia_testing.engines import ScriptedEngine

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"
ROOMY = Limits(setup_seconds=60.0, solve_seconds=30.0, processes=64)
Attempt = Callable[..., SolveResult]


@pytest.fixture
def sandbox() -> Sandbox:
    instance, lacks = probed("namespaces")
    if lacks:
        pytest.skip(f"{instance.name} does not work here: {lacks}")
    return instance


@pytest.fixture
def attempt(sandbox: Sandbox, tmp_path: Path) -> Iterator[Attempt]:
    """``attempt(folder, input)`` is the result of an agent's folder for one input."""
    workers: list[HarnessWorker] = []

    def _attempt(folder: Path, value: Any, model: Gateway | None = None, public: str = "") -> SolveResult:
        (tmp_path / "public").mkdir(exist_ok=True)
        (tmp_path / "public" / "cases.jsonl").write_text(public)
        tree = HarnessTree.from_folder(folder)
        workers.append(HarnessWorker(sandbox, folder, tree.manifest, tmp_path / "public", ROOMY, model))
        (result,) = workers[-1].solve([SolveRequest("k", {"id": "i", "input": value, "start": None}, 1)])
        return result

    yield _attempt
    for worker in workers:
        worker.close()


def ported(name: str, folder: Path) -> Path:
    """An agent of the page, in a folder."""
    for _, title, text in blocks(PAGE):
        if title.startswith(f"{name}/"):
            target = folder / title
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
    return folder / name


@pytest.fixture
def says() -> Iterator[Callable[..., Gateway]]:
    """``says(*replies)`` is a policy that gives these replies in turn, whatever it is asked."""
    gateways: list[Gateway] = []

    def _says(*replies: str) -> Gateway:
        remaining = list(replies)
        gateways.append(Gateway(ScriptedEngine(lambda prompt, seed: remaining.pop(0))))
        return gateways[-1]

    yield _says
    for gateway in gateways:
        gateway.close()


# The agents of the page


@pytest.mark.slow
def test_the_agent_with_an_openai_client(attempt: Attempt, says: Callable[..., Gateway], tmp_path: Path) -> None:
    pytest.importorskip("openai")
    result = attempt(ported("tickets", tmp_path), {"text": "where is my parcel?"}, says(" Delivery\n"))
    assert (result.outcome, result.answer) == ("ok", '"delivery"'), result


@pytest.mark.slow
def test_the_agent_of_a_library(attempt: Attempt, says: Callable[..., Gateway], tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai")
    calls = ['{"name": "add", "arguments": {"a": 1, "b": 2}}', '{"name": "final_result", "arguments": {"value": 3}}']
    policy = says(*(f"<tool_call>{each}</tool_call>" for each in calls))
    result = attempt(ported("sums", tmp_path), {"text": "one plus two"}, policy)
    assert (result.outcome, result.answer) == ("ok", "3"), result


def test_the_agent_with_numpy(attempt: Attempt, tmp_path: Path) -> None:
    cases = [{"input": {"rooms": n, "area": 10 * n}, "answer": 100 * n} for n in range(1, 6)]
    public = "".join(json.dumps(case) + "\n" for case in cases)
    result = attempt(ported("prices", tmp_path), {"rooms": 3, "area": 30}, public=public)
    assert (result.outcome, result.answer) == ("ok", "300.0"), result


# First attempts


@pytest.mark.parametrize(
    ("code", "says_what"),
    [
        ("import numpy\ndef solve(i, c): ...", 'add requires = ["numpy"] to harness.toml'),
        ("import os\ndef solve(i, c): return os.environ['OPENAI_API_KEY']", "set inside of solve"),
        ("from urllib.request import urlopen\ndef solve(i, c): urlopen('http://example.com')", "the network. "),
        ("import socket\ndef solve(i, c): socket.create_connection(('192.0.2.1', 80), 1)", "the network. "),
        ("import subprocess\ndef solve(i, c): subprocess.run('ls', shell=True, check=True)", "shells and programs"),
        ("def solve(i, c): open('default.txt')", 'Path(__file__).parent / "default.txt"'),
        ("def solve(i, c): open('/home/somebody/data.csv')", "the files of this machine"),
        ("def solve(i, c): open(__file__ + 'x', 'w')", "writes to ctx.scratch alone"),
    ],
)  # fmt: skip
def test_a_first_attempt_is_told_what_the_sandbox_hid(
    attempt: Attempt, tmp_path: Path, code: str, says_what: str
) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    (folder / "harness.py").write_text(code)
    result = attempt(folder, {})
    (hint,) = hints(f"{result.outcome}: {result.message}")
    assert hint.startswith("hidden by the sandbox: ")
    assert says_what in hint


def test_the_command_line_prints_the_hint_and_no_traceback(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = ported("prices", tmp_path)
    (agent / "harness.toml").unlink()
    (tmp_path / "prices.csv").write_text("rooms,area,price\n" + "".join(f"{n},{n}0,{n}00\n" for n in range(1, 21)))
    where = ["--harness", "prices", "--data", "prices.csv", "--answer-column", "price", "--verifier", "numeric:0.5"]
    assert main(["run", *where, "--generations", "0", "--dry-run"]) != 0
    error = capsys.readouterr().err
    assert '\nhidden by the sandbox: add requires = ["numpy"] to harness.toml\n' in error
    assert "Traceback" not in error
    shutil.rmtree(agent)
    ported("prices", tmp_path)
    assert main(["run", *where, "--generations", "0", "--dry-run"]) == 0
