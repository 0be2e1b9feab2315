"""Bubblewrap as a sandbox: its walls, its exit codes, and what is said where it is missing or refused."""

from __future__ import annotations

import json
import marshal
import os
from pathlib import Path
from typing import Any

import pytest
from sandbox.conftest import SANDBOXES, Bench, probed

from sia_core.types import Limits
from sia_runtime.sandbox import bundle, bwrap, guest, layout, newroot
from sia_runtime.sandbox.bwrap import Bubblewrap
from sia_runtime.sandbox.choosing import examine
from sia_runtime.sandbox.contract import GUARANTEES, Mount, SandboxSpec

pytestmark = pytest.mark.real


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    instance, lacks = probed("bwrap")
    if lacks:
        pytest.skip(f"bwrap does not work here: {dict.fromkeys(lacks.values())}")
    made_bench = Bench(instance, tmp_path)
    yield made_bench
    for worker in made_bench.workers:
        worker.close()


def arguments(tmp_path: Path, *, drop_user: bool) -> list[str]:
    inside = layout.inside(SandboxSpec(tmp_path / "program.py", (Mount("data", tmp_path),)), as_other_user=drop_user)
    return bwrap._walls(inside, 4096, drop_user=drop_user)


def test_every_wall_is_asked_for(tmp_path: Path) -> None:
    walls = arguments(tmp_path, drop_user=False)
    for wall in ("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"):
        assert wall in walls
    assert walls[walls.index("--cap-drop") + 1] == "ALL"
    assert "--cap-add" not in walls
    assert [walls[i + 1] for i, word in enumerate(walls) if word == "--remount-ro"][-1] == "/"


def test_root_keeps_only_what_it_takes_to_become_somebody_else(tmp_path: Path) -> None:
    walls = arguments(tmp_path, drop_user=True)
    assert {walls[i + 1] for i, word in enumerate(walls) if word == "--cap-add"} == set(bwrap._KEPT_UNTIL_SEALED)
    for kind in ("pid", "net", "ipc", "uts"):
        assert f"--unshare-{kind}" in walls


def test_nothing_is_writable_but_the_scratch_folder(tmp_path: Path) -> None:
    walls = arguments(tmp_path, drop_user=False)
    assert "--bind" not in walls
    assert [walls[i + 1] for i, word in enumerate(walls) if word == "--dev-bind"] == [
        "/dev/null",
        "/dev/zero",
        "/dev/random",
        "/dev/urandom",
    ]


def test_a_harness_is_solved_with_its_files_and_libraries(bench: Bench) -> None:
    code = """
        import os, numpy
        def solve(instance, ctx):
            files = os.listdir("/proc"), os.listdir("/sia/lib")
            return [int(numpy.arange(4).sum()), (ctx.public / "cases.txt").read_text(), os.getuid(), files]
    """
    (result,) = bench.solve(code, [0], requires=("numpy",))
    total, text, user, (proc, libraries) = json.loads(result.answer or result.message)
    assert (total, text) == (6, "public")
    assert user not in (0, os.getuid())
    assert proc == ["cpuinfo"]
    assert not [each for each in libraries if each.startswith(("sia", "pluggy", "pytest"))]


def test_neither_the_environment_nor_the_core_is_left_inside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-key")
    code = """
        import gc, importlib.util, os, sys
        def solve(instance, ctx):
            core = [name for name in ("sia_core", "sia_program") if importlib.util.find_spec(name)]
            return [dict(os.environ), core, [type(each).__name__ for each in sys.meta_path if "Bundle" in repr(each)]]
    """
    (result,) = bench.solve(code, [0])
    environment, core, finders = json.loads(result.answer or result.message)
    assert not [name for name, value in environment.items() if value == "the-key" or name == "PWD"]
    assert environment["PYTHONHASHSEED"] == "0"
    assert (core, finders) == ([], [])


def test_how_a_set_up_ended_is_told(bench: Bench) -> None:
    (exited,) = bench.solve("import os\nos._exit(5)", [0])
    (killed,) = bench.solve("import os\nos.abort()", [0])
    assert ("exit 5" in exited.message, "signal 6" in killed.message) == (True, True), (exited, killed)


def test_empty_files_without_end_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newroot, "FILES_IN_SCRATCH", 100)
    code = """
        def solve(instance, ctx):
            number = 0
            while instance.input["do"]:
                number += 1
                open(str(number), "w").close()
            return 42
    """
    limits = Limits(setup_seconds=20.0, solve_seconds=20.0, processes=16)
    attacked, fine = bench.solve(code, [1, 0], limits=limits, slots=1)
    assert (attacked.outcome, fine.answer) == ("disk", "42")


def test_a_machine_without_the_binary_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (examined,) = examine([Bubblewrap()])
    assert set(examined.lacks) == set(GUARANTEES)
    assert "apt-get install bubblewrap" in examined.lacks["files"]
    assert not examined.usable


def test_a_host_that_refuses_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (examined,) = examine([Bubblewrap()])
    assert "setting up uid map: Permission denied" in examined.lacks["files"]
    assert not examined.starts


def test_the_bundle_holds_what_runs_inside_and_no_more() -> None:
    modules = marshal.loads(bundle.bundle(Path(guest.__file__))[8:])  # noqa: S302 - made here
    assert {"sia_program", "sia_runtime.sandbox.within", "sia_runtime.sandbox.solving"} <= modules.keys()
    outside = {"sia_runtime.worker.session", "sia_runtime.worker.harness_worker", "sia_runtime.sandbox.process_handle"}
    assert not outside & modules.keys()


def test_the_cores_sandboxes_are_all_tested_here() -> None:
    from sia_core.plugins import Plugins

    assert {offer.name for offer in Plugins.discover().of_kind("sandbox")} >= SANDBOXES.keys()
