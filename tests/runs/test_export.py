"""Exported agents: the runner beside a harness solves cases as the sandbox does, and export refuses changed data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_runs import Run

from sia_cli import main
from sia_deploy import exported
from sia_deploy.export import RUNNER, _example, write_runner
from sia_runtime.cases import _read_case

pytestmark = pytest.mark.real

Solve = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def solve(tmp_path: Path) -> Solve:
    """``solve(harness, lines)`` runs an exported harness; the answers. ``solve.err`` is what it printed."""

    def start(
        harness: str, lines: list[str], *, stateless: bool = False, code: int = 0, raw: bytes = b"", prelude: str = ""
    ) -> list[dict[str, Any]]:
        folder = tmp_path / f"agent {len(list(tmp_path.iterdir()))}"
        (folder / "harness" / "src").mkdir(parents=True)
        (folder / "public").mkdir()
        (folder / "public" / "known.txt").write_text("known")
        (folder / "harness" / "src" / "entry.py").write_text(harness)
        (folder / "harness" / "top.py").write_text("VALUE = 1")
        (folder / "agent.json").write_text(json.dumps({"entry": "src/entry.py", "stateless": stateless}))
        write_runner(folder)
        if prelude:
            (folder / "run.py").write_text(prelude + RUNNER.read_text())
        content = raw or "".join(f"{line}\n" for line in lines).encode()
        argv = [sys.executable, "-S", str(folder / "run.py")]
        result = subprocess.run(argv, input=content, capture_output=True, check=False, timeout=60)
        start.err = result.stderr.decode()  # type: ignore[attr-defined]
        assert result.returncode == code, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return start


def answers(rows: list[dict[str, Any]]) -> list[Any]:
    return [each["answer"] for each in rows]


@pytest.mark.parametrize(
    ("argument", "code", "says"), [("--help", 0, "a case a line in"), ("cases.jsonl", 2, "run.py takes no arguments")]
)
def test_the_runner_says_what_it_takes_and_does_not_wait(argument: str, code: int, says: str, tmp_path: Path) -> None:
    write_runner(tmp_path)
    argv = [sys.executable, "-S", str(tmp_path / "run.py"), argument]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        assert says in process.stdout.read().decode()  # standard input is open, and nobody writes to it
    assert process.returncode == code


@pytest.mark.parametrize("files", [{}, {"agent.json": '{"entry": "harness.py"}'}])
def test_a_folder_that_was_copied_in_part_is_said_to_be(files: dict[str, str], tmp_path: Path) -> None:
    write_runner(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    argv = [sys.executable, "-S", str(tmp_path / "run.py")]
    result = subprocess.run(argv, input="", capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "its folder has to be whole" in result.stderr
    assert "Traceback" not in result.stderr


ECHO = "def solve(instance, ctx): return instance.input\n"
NUMBERS = [json.dumps({"n": number}) for number in range(4)]


def test_a_line_is_an_input_or_a_whole_case(solve: Solve) -> None:
    case = {"id": 7, "input": {"n": 1}, "answer": 2, "split": "gate"}
    lines = [{"n": 1}, case, {"input": {"n": 1}, "answer": 2}, {"input": "a", "answer": None}, "a", 3, None, [1]]
    own = {"input": "a", "unit": "b"}
    rows = solve(ECHO, [json.dumps(line) for line in (*lines, {"input": own}, own)])
    texts = [{"text": each} for each in ("a", "a", 3, None, [1])]
    assert answers(rows) == [{"n": 1}, {"n": 1}, {"n": 1}, *texts, own, own]


def test_a_case_has_the_id_that_it_has_in_a_run(solve: Solve) -> None:
    lines = ['{"input": "zwölf\\u2028", "answer": 1}', '{"id": 7, "input": 1, "answer": 1}']
    rows = solve("def solve(instance, ctx): return [instance.id, instance.start]", lines)
    cases = [_read_case(json.loads(line), "", number) for number, line in enumerate(lines, 1)]
    assert answers(rows) == [[case.id, None] for case in cases]


def test_lines_that_cannot_be_read_cost_themselves_alone(solve: Solve) -> None:
    raw = b'\xef\xbb\xbf{"n": 1}\r\n\n  \nnonsense\n\xff\nNaN\n' + b"[" * 100_000 + b'\n"a\xe2\x80\xa8b"'
    first, *bad, last = solve(ECHO, [], raw=raw)
    assert first == {"answer": {"n": 1}}
    assert last == {"answer": {"text": "a\u2028b"}}
    numbers = [each["error"].split(":")[0] for each in bad]
    assert numbers == [f"line {number} is not JSON" for number in (4, 5, 6, 7)]


@pytest.mark.parametrize("stateless", [False, True])
def test_what_a_harness_does_to_its_process_costs_that_case_alone(solve: Solve, stateless: bool) -> None:
    harness = """import os, signal, sys, subprocess
def solve(instance, ctx):
    n = instance.input["n"]
    if n == 1: sys.exit(3)
    if n == 2: os._exit(4)
    if n == 3: os.kill(os.getpid(), signal.SIGKILL)
    if n == 4: raise KeyboardInterrupt
    if n == 5: return float("nan")
    if n == 6: return "\\ud800"
    if n == 7: return object()
    if n == 8:
        if os.fork() == 0: signal.pause()
        os._exit(5)
    if n == 9: raise ValueError("\\ud800")
    if n == 10: os.closerange(0, 1024)
    return "x" * 300_000
"""
    rows = solve(harness, [json.dumps({"n": n}) for n in range(12)], stateless=stateless)
    large = {"answer": "x" * 300_000}
    assert rows[0] == rows[11] == large
    errors = [each.get("error", "")[:90] for each in rows]
    assert errors[1].splitlines() == ["SystemExit: 3", "  src/entry.py:4 in solve: if n == 1: sys.exit(3)"]
    assert errors[2] == "its process ended with exit code 4 before it answered"
    assert errors[3] == "killed by signal 9 (Killed)"
    assert errors[4].startswith("KeyboardInterrupt")
    assert [each.split(":")[0] for each in errors[5:8]] == ["the answer is not JSON"] * 3
    assert errors[8] == "its process ended with exit code 5 before it answered"
    assert errors[9].startswith("ValueError: ?\n")
    assert errors[10]


def test_no_case_sees_what_another_did_unless_the_harness_is_stateless(solve: Solve) -> None:
    harness = "seen = []\ndef solve(instance, ctx):\n    seen.append(1)\n    return len(seen)\n"
    assert answers(solve(harness, NUMBERS)) == [1, 1, 1, 1]
    assert answers(solve(harness, NUMBERS, stateless=True)) == [1, 2, 3, 4]


def test_what_a_harness_prints_is_no_answer_and_the_cases_are_not_its_to_read(solve: Solve) -> None:
    harness = """import os, sys
print("loading")
def setup(ctx):
    print("setting up")
    os.write(1, b"raw\\n")
    ctx.log.info("logged")
def solve(instance, ctx):
    print("solving")
    os.system("echo child")
    sys.stdin.read()
    return sys.stdin.read()
"""
    assert answers(solve(harness, NUMBERS)) == ["", "", "", ""]
    words = solve.err.split()  # type: ignore[attr-defined]
    assert words.count("solving") == words.count("child") == 4
    assert words.count("loading") == words.count("raw") == words.count("logged") == 1


def test_the_module_is_one_and_has_what_lies_beside_it(solve: Solve) -> None:
    harness = """from __future__ import annotations
import pickle, sys
from dataclasses import dataclass, field
import top
@dataclass
class State:
    text: str
    more: list[int] = field(default_factory=list)
def setup(ctx):
    return State((ctx.public / "known.txt").read_text())
def solve(instance, ctx):
    ctx.reward(0.5)
    return [ctx.state.text, top.VALUE, pickle.loads(pickle.dumps(ctx.state)) == ctx.state, __name__]
"""
    assert answers(solve(harness, NUMBERS[:1])) == [["known", 1, True, "harness"]]


def test_the_order_of_the_lines_changes_no_answer(solve: Solve) -> None:
    harness = """import random, tempfile, os
def solve(instance, ctx):
    here = os.getcwd() == str(ctx.scratch) == os.environ["TMPDIR"] == tempfile.gettempdir()
    fresh = os.listdir() == []
    open("mine", "w").close()
    return [instance.input["n"], random.random(), ctx.seed, hash("a"), here and fresh]
"""
    runs = [
        answers(solve(harness, lines, stateless=stateless))
        for lines in (NUMBERS, NUMBERS[::-1], ['{"m": 1, "n": 9}', *NUMBERS])
        for stateless in (False, True)
    ]
    assert runs[0] == runs[1] == runs[2][::-1] == runs[3][::-1] == runs[4][1:] == runs[5][1:]
    assert all(each[-1] for each in runs[0])
    assert len({each[2] for each in runs[0]}) == 4
    one, two = solve(harness, ['{"m": 1, "n": 2}', '{"n": 2, "m": 1}'])
    assert one == two


def test_without_fork_cases_share_the_process(solve: Solve) -> None:
    harness = (
        "import sys\nseen = []\ndef solve(instance, ctx):\n    seen.append(1)\n    return seen[4] or sys.exit(3)\n"
    )
    rows = solve(harness, NUMBERS, prelude="import os\ndel os.fork\n")
    assert [each["error"].splitlines()[0] for each in rows] == ["IndexError: list index out of range"] * 4


@pytest.mark.parametrize("setup", ["raise ValueError('broken')", "import sys; sys.exit(0)"])
def test_a_set_up_that_fails_is_a_failure_of_the_program(solve: Solve, setup: str) -> None:
    assert solve(f"def setup(ctx):\n    {setup}\n{ECHO}", NUMBERS, code=1) == []
    assert "Traceback" in solve.err  # type: ignore[attr-defined]


def test_the_policy_is_refused_and_so_is_a_reward_that_is_no_number(solve: Solve) -> None:
    harness = "def solve(instance, ctx):\n    return (ctx.model if instance.input['n'] else ctx.reward)(float('inf'))\n"
    zero, one = solve(harness, NUMBERS[:2])
    assert "a step reward is a number below" in zero["error"]
    assert "there is no policy to ask" in one["error"]


def test_a_harness_that_needs_sia_itself_gets_the_one_that_is_installed(solve: Solve, tmp_path: Path) -> None:
    (tmp_path / "sia_runtime").mkdir()
    (tmp_path / "sia_runtime" / "__init__.py").write_text("installed = True\n")
    harness = f"import sys\nsys.path.append({str(tmp_path)!r})\nimport sia_runtime\n{ECHO}"
    assert answers(solve(f"{harness}assert sia_runtime.installed\n", NUMBERS[:1])) == [{"n": 0}]


def test_evaluations_are_over_once_an_agent_is_exported(solve: Solve) -> None:
    harness = """def solve(instance, ctx):
    try:
        ctx.evaluate(1)
    except ctx.EvaluationError:
        return ctx.evaluations
"""
    assert answers(solve(harness, NUMBERS[:1])) == [0]


@pytest.mark.parametrize("fields", [{"text": "a"}, {"input": "a"}, {"input": "a", "answer": 1}, {"input": 1, "b": 2}])
def test_the_example_of_the_readme_is_read_as_that_input(fields: dict[str, Any]) -> None:
    assert exported.read_case(_example(fields).encode())["input"] == dict.fromkeys(fields, "...")


def test_the_seed_of_a_case_is_of_its_content() -> None:
    seeds = {exported.read_case(line.encode())["seed"] for line in NUMBERS}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**48 for seed in seeds)


# Exporting


def test_export_says_what_it_wrote_and_refuses_data_that_are_not_the_runs(
    run: Run, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sums / "agent" / "harness.toml").write_text('requires = ["pluggy"]\nstateless = true\n')
    name, runs = run("--generations", "0")["run"], str(tmp_path / "runs")
    target = tmp_path / "exported"
    assert main(["export", name, str(target), "--runs-dir", runs]) == 0
    about = json.loads((target / "agent.json").read_text())
    assert (about["entry"], about["stateless"]) == ("harness.py", True)
    assert (target / "requirements.txt").read_text().startswith("pluggy==")
    readme = (target / "README.md").read_text()
    for words in ("< my-inputs.jsonl > agent-answers.jsonl", "installed when this folder was written", "stateless"):
        assert words in readme
    assert '{"text": "..."}' in readme
    whole = (sums / "cases.jsonl").read_bytes()
    result = subprocess.run([sys.executable, str(target / "run.py")], input=whole, capture_output=True, check=True)
    assert len(result.stdout.splitlines()) == len(whole.splitlines())
    assert b"error" not in result.stdout
    before = digests(target)
    (sums / "cases.jsonl").write_bytes(whole.replace(b'"answer": 4}', b'"answer": 5}', 1))
    capsys.readouterr()
    shutil.rmtree(target)
    assert main(["export", name, str(target), "--runs-dir", runs]) == 2
    assert "are not those of the run" in capsys.readouterr().err
    assert not target.exists()
    (sums / "cases.jsonl").write_bytes(whole)
    assert main(["export", name, str(target), "--runs-dir", runs]) == 0
    assert digests(target) == before


def digests(folder: Path) -> dict[str, str]:
    files = [each for each in folder.rglob("*") if each.is_file() and "__pycache__" not in each.parts]
    return {os.path.relpath(each, folder): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
