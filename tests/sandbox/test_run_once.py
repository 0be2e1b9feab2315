"""A program that a candidate wrote runs once, in its own sandbox, and ends however it likes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from sia_core.errors import HarnessError, SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox.run_once import run_program

pytestmark = pytest.mark.real

QUICK = Limits(solve_seconds=1.0, processes=16)


def run(sandbox: Any, code: str, *arguments: str, **more: Any) -> Any:
    return run_program(sandbox, {"main.py": code.encode()}, ["python", "main.py", *arguments], **more)


def test_it_has_its_files_arguments_input_and_libraries(sandbox: Any) -> None:
    files = {
        "main.py": b"import sys, numpy\nfrom pack import helper\n"
        b"print(sys.argv, sys.stdin.read(), helper.x, open('data.txt').read(), __name__)\n"
        b"print('to stderr', file=sys.stderr)\nsys.exit(3)",
        "pack/helper.py": b"x = 1",
        "data.txt": b"data",
    }
    command = ["python", "main.py", "a", "b"]
    ran = run_program(sandbox, files, command, "ü".encode() * 10**4, requires=("numpy",))
    assert (ran.ended, ran.exit_code) == ("ok", 3)
    assert ran.stdout.decode() == f"['main.py', 'a', 'b'] {'ü' * 10**4} 1 data __main__\n"
    assert ran.stderr == b"to stderr\n"
    assert 0 < ran.seconds < 60


@pytest.mark.parametrize(
    ("code", "ended", "exit_code"),
    [
        ("1 / 0", "ok", 1),
        ("import sys; sys.exit('a text')", "ok", 1),
        ("import os; os._exit(7)", "ok", 7),
        ("import os; os.kill(os.getpid(), 9)", "killed", None),
        ("import os\nos.closerange(0, 1024)", "ok", 0),
        ("while True: pass", "timeout", None),
        ("while True: print('x' * 1000)", "flood", None),
        ("import os\nif os.fork() == 0:\n    while True: pass", "ok", 0),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nwhile True: pass", "ok", 1),
    ],
)
def test_however_it_ends(sandbox: Any, code: str, ended: str, exit_code: int | None) -> None:
    limits = QUICK if ended == "timeout" else replace(QUICK, solve_seconds=20.0)
    ran = run(sandbox, code, stdin=b"x" * 10**6, limits=limits)
    assert (ran.ended, ran.exit_code) == (ended, exit_code), ran


CHILDREN = """
import os, signal
for _ in range(8):
    if os.fork() == 0:
        x = b"x" * (60 * 2**20)
        signal.pause()
signal.pause()
"""


def test_memory_of_its_children_is_watched(sandbox: Any) -> None:
    assert run(sandbox, CHILDREN, limits=Limits(total_memory_bytes=256 * 2**20)).ended == "memory"


FIND_DESCRIPTORS = """
import os
for descriptor in range(3, 1024):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    print("open:", descriptor)
"""


def test_it_holds_no_channel_whatever_the_orchestrator_has_open(sandbox: Any) -> None:
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    try:
        ran = run(sandbox, FIND_DESCRIPTORS)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert (ran.ended, ran.stdout) == ("ok", b"")


@pytest.mark.parametrize("command", [[], ["python"], ["python", "absent.py"], ["sh", "main.py"], ["python", "-c"]])
def test_only_a_file_of_those_given_is_run(sandbox: Any, command: list[str]) -> None:
    with pytest.raises(SandboxError, match="'python', FILE"):
        run_program(sandbox, {"main.py": b""}, command)


def test_a_path_out_of_the_folder_is_refused(sandbox: Any) -> None:
    with pytest.raises(HarnessError, match="not a path"):
        run_program(sandbox, {"main.py": b"", "../x.py": b""}, ["python", "main.py"])
