"""Code that an improver has run: in a sandbox as harnesses have one, beside a working copy, each time anew."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sia_runtime.worker.harness_worker import SolveRequest, SolveResult
from sia_runtime.worker.host import LABORATORY


@pytest.fixture
def laboratory(bench: Any) -> Any:
    return bench.worker((LABORATORY / "harness.py").read_text())


def ran(laboratory: Any, *codes: str, **files: str) -> list[SolveResult]:
    inside = {f"{name}.py": base64.b64encode(text.encode()).decode() for name, text in files.items()}
    results = []
    for number, code in enumerate(codes):
        instance = {"id": "experiment", "input": {"code": code, "files": inside}, "start": None}
        results += list(laboratory.solve([SolveRequest(str(number), instance, 0)]))
    return results


def test_it_prints_what_it_reads_of_the_public_files_and_imports_the_working_copy(laboratory: Any) -> None:
    code = "import harness\nprint((ctx.public / 'cases.txt').read_text(), harness.double(21))"
    (result,) = ran(laboratory, code, harness="def double(n): return 2 * n")
    assert (result.outcome, result.answer, result.log) == ("ok", "true", "public 42\n")


def test_an_exception_is_shown_with_the_lines_of_the_code_and_of_nothing_else(laboratory: Any) -> None:
    (result,) = ran(laboratory, "print('before')\nnone['such']")
    assert result.answer == "false"
    assert "before" in result.log
    assert 'File "code.py", line 2, in <module>' in result.log
    assert "none['such']" in result.log
    assert "NameError" in result.log
    assert "harness.py" not in result.log


def test_nothing_of_one_experiment_is_left_for_the_next(laboratory: Any) -> None:
    write = "import os, random; open('left', 'w').write('x'); random.left = 1; print(os.listdir('.'))"
    look = "import os, random; print(os.listdir('.'), hasattr(random, 'left'))"
    first, second = ran(laboratory, write, look)
    assert "left" in first.log
    assert second.log == "[] False\n"


@pytest.mark.parametrize("code", ["while True: pass", "import os; os._exit(3)", "import os; os.kill(os.getppid(), 9)"])
def test_what_hangs_or_kills_costs_itself_alone(laboratory: Any, code: str) -> None:
    hostile, fine = ran(laboratory, f"print('so far')\n{code}", "print('fine')")
    assert hostile.answer != "true"
    assert hostile.log.startswith("so far\n")
    assert fine.log == "fine\n"


def test_it_has_no_instance_no_policy_and_no_network(laboratory: Any) -> None:
    code = "import socket; print(ctx.has_model, ctx.evaluations); socket.create_connection(('127.0.0.1', 80), 1)"
    (result,) = ran(laboratory, code)
    assert result.log.startswith("False 0\n")
    assert result.answer == "false"
