"""The sandbox ``docker`` against a stand-in for the engine: its command line, its channel, and what it says of none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sandbox.conftest import Bench, probed

from sia_core.errors import SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox import docker
from sia_runtime.sandbox.choosing import examine
from sia_runtime.sandbox.contract import GUARANTEES, Mount, SandboxSpec
from sia_runtime.sandbox.docker import Docker
from sia_runtime.sandbox.program_host import open_program

pytestmark = pytest.mark.real

QUICK = Limits(setup_seconds=20.0, solve_seconds=1.0, processes=16)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that runs containers with bubblewrap; its folder holds one file a container."""
    lacks = probed("bwrap")[1]
    if lacks:
        pytest.skip(f"the stand-in needs bwrap, which does not work here: {set(lacks.values())}")
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    stand_in = Path(__file__).with_name("docker_stand_in.py")
    program.write_text(f'#!/bin/sh\nexec {real} {stand_in} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(docker.IMAGE_VARIABLE, raising=False)
    return tmp_path / "state"


@pytest.fixture
def bench(engine: Path, tmp_path: Path) -> Iterator[Bench]:
    result = Bench(Docker(), tmp_path)
    yield result
    for worker in result.workers:
        worker.close()


def without_engine(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_command_line_leaves_nothing_open(tmp_path: Path) -> None:
    words = docker.arguments(SandboxSpec(tmp_path / "p.py", (Mount("data", tmp_path),), limits=QUICK), "sia-x")
    pairs = set(pairwise(words))
    assert {("--network", "none"), ("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges")} <= pairs
    assert {("--pids-limit", "18"), ("--memory", str(QUICK.total_memory_bytes)), ("--ipc", "none")} <= pairs
    assert {"--read-only", "--rm", "--interactive"} <= set(words)
    assert all(word.endswith(",readonly") for option, word in pairs if option == "--mount")
    assert not {"--privileged", "--volume", "-v", "--publish", "--device"} & set(words)
    user = next(word for option, word in pairs if option == "--user")
    assert int(user.partition(":")[0]) > 10**9


def test_a_path_that_docker_cannot_mount_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    with pytest.raises(SandboxError, match="comma"):
        docker.arguments(SandboxSpec(tmp_path / "p.py", (Mount("data", tmp_path / "a,b"),)), "sia-x")


def test_libraries_of_another_system_take_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SandboxSpec(tmp_path / "p.py", libraries=(tmp_path,))
    monkeypatch.delenv(docker.IMAGE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="SIA_DOCKER_IMAGE"):
        docker.arguments(spec, "sia-x")
    monkeypatch.setenv(docker.IMAGE_VARIABLE, "mine:1")
    words = docker.arguments(spec, "sia-x")
    assert "mine:1" in words
    assert not [word for word in words if "/sia/lib" in word]


def test_a_machine_without_an_engine_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_engine(tmp_path, monkeypatch, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (examined,) = examine([Docker()])
    assert set(examined.lacks) == set(GUARANTEES)
    assert "no docker engine answers: Cannot connect" in examined.lacks["files"]


def test_an_engine_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_ENGINE_SECONDS", 0.2)
    without_engine(tmp_path, monkeypatch, "exec sleep 60")
    assert "no docker engine answers within" in Docker().probe()["files"]


def test_a_machine_without_the_program_is_told_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "docker is not installed" in Docker().probe()["files"]


def test_an_engine_that_bounds_no_memory_does_not_guarantee_it(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_BOUNDS", "x")
    ask = docker._ask
    monkeypatch.setattr(docker, "_ask", lambda *words: "false true" if words[0] == "info" else ask(*words))
    assert Docker().probe() == {"total_memory": "the engine bounds no memory or processes"}


def test_the_attacks_of_the_probe_are_stopped(engine: Path) -> None:
    assert Docker().probe() == {}


def test_a_harness_is_solved_with_its_files_and_libraries(bench: Bench) -> None:
    code = """
        import helper, numpy, os, sys
        def solve(instance, ctx):
            print("to the log")
            (ctx.scratch / "file").write_text("x")
            core = [name for name in sys.modules if name.startswith("sia")]
            return [helper.x, (ctx.public / "cases.txt").read_text(), int(numpy.arange(4).sum()), core]
    """
    results = bench.solve(code, [0, 1, 2], files={"helper.py": "x = 1"}, requires=("numpy",))
    assert [json.loads(result.answer or result.message) for result in results] == [[1, "public", 6, []]] * 3
    assert results[0].log == "to the log\n"


def test_large_answers_and_inputs_pass_through(bench: Bench) -> None:
    code = "def solve(instance, ctx): return instance.input['do'][::-1]"
    (result,) = bench.solve(code, ["ab" * 200_000])
    assert json.loads(result.answer or result.message) == "ba" * 200_000


def test_a_candidates_module_is_called_with_arrays(engine: Path) -> None:
    import numpy as np

    array = np.arange(2**16, dtype=np.float32).reshape(2, -1)
    code = b"def twice(x): return [x['a'] * 2, x['b'], 'text']\ndef large(): import numpy; return numpy.zeros(2**20)"
    with open_program(Docker(), {"kernel.py": code}, "kernel", limits=replace(QUICK, file_bytes=2**20)) as program:
        called = program.call("twice", [{"a": array, "b": np.ones(3, bool)}], 20.0)
        assert called.ended == "ok", called
        np.testing.assert_array_equal(called.value[0], array * 2)
        assert (called.value[1].tolist(), called.value[2]) == ([True] * 3, "text")
        assert program.call("large", (), 20.0).ended == "protocol"


def test_how_a_set_up_ended_is_told(bench: Bench) -> None:
    (exited,) = bench.solve("import os\nos._exit(5)", [0])
    (killed,) = bench.solve("import os\nos.abort()", [0])
    assert ("exit 5" in exited.message, "signal 6" in killed.message) == (True, True), (exited, killed)


def test_a_hung_instance_costs_itself_alone(bench: Bench) -> None:
    code = """
        import signal
        def solve(instance, ctx):
            while instance.input["do"] == "hang": signal.pause()
            return 1
    """
    results = bench.solve(code, ["hang", 1, 2], limits=replace(QUICK, solve_seconds=3.0))
    assert [result.outcome for result in results] == ["timeout", "ok", "ok"]


@pytest.mark.parametrize(
    "attack",
    [
        "os.write(1, b'forged')",
        "open('/proc/1/fd/1', 'wb').write(b'forged')",
        "open('/proc/1/mem', 'r+b')",
        "os.kill(1, 9)",
        "os.chmod('/sia/harness/harness.py', 0o777)",
    ],
)
def test_what_passes_messages_on_is_out_of_reach(bench: Bench, attack: str) -> None:
    code = f"""
        import os
        def setup(ctx):
            try:
                {attack}
            except OSError:
                pass
        def solve(instance, ctx): return 42
    """
    assert [result.answer for result in bench.solve(code, [0, 1])] == ["42", "42"]


def test_a_container_ends_when_its_host_does(engine: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, signal\ndef main(channel, world):\n    os.write(channel, b'!')\n    signal.pause()")
    process: Any = Docker().start(SandboxSpec(program))
    assert process.channel.recv(1) == b"!"
    process.channel.close()  # all that is left to the engine when the host is killed
    assert process._client.wait(10) == 0
    process.kill()
