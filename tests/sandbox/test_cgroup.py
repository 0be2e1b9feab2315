"""A cgroup for each sandbox: found where one may be made, of the size that was asked for, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_runtime.sandbox import cgroup

MB = 2**20


def machine(root: Path, *, own_limit: str = "max", controllers: str = "cpu memory pids") -> Path:
    """A machine with the second hierarchy, whose user's processes lie in a scope below his slice; the slice."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/user.slice/mine.slice/one.scope\n")
    (root / "proc/self/mounts").write_text("proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    slice_ = root / "sys/fs/cgroup/user.slice/mine.slice"
    (slice_ / "one.scope").mkdir(parents=True)
    (slice_ / "cgroup.subtree_control").write_text(controllers)
    (slice_ / "one.scope/cgroup.subtree_control").write_text("")
    (slice_ / "one.scope/memory.max").write_text(own_limit)
    return slice_


def test_a_cgroup_is_made_beside_the_process_where_its_slice_hands_memory_on(tmp_path: Path) -> None:
    slice_ = machine(tmp_path)
    assert cgroup.make(5 * MB, tmp_path) is not None
    (folder,) = slice_.glob("sia-sandbox-*")
    assert (folder / "memory.max").read_text() == str(5 * MB)


@pytest.mark.parametrize(("limit", "controllers"), [("1000000", "cpu memory"), ("max", "cpu")])
def test_none_is_made_past_a_limit_of_the_process_nor_where_memory_is_not_handed_on(
    tmp_path: Path, limit: str, controllers: str
) -> None:
    machine(tmp_path, own_limit=limit, controllers=controllers)
    assert cgroup.make(5 * MB, tmp_path) is None


def test_a_machine_without_cgroups_has_none(tmp_path: Path) -> None:
    assert cgroup.make(5 * MB, tmp_path) is None


def test_what_an_owner_that_was_killed_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    slice_ = machine(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = slice_ / f"sia-sandbox-{ended.pid}-0", slice_ / f"sia-sandbox-{os.getppid()}-0"
    dead.mkdir()
    living.mkdir()
    cgroup.make(5 * MB, tmp_path)
    assert (dead.exists(), living.exists()) == (False, True)


@pytest.fixture
def place() -> Path:
    """Where cgroups can really be made."""
    group = cgroup.make(100 * MB)
    if group is None:
        pytest.skip("this process may make no cgroup with memory")
    group.remove()
    return group._folder.parent


def test_what_takes_more_than_the_limit_is_killed_and_nothing_is_left(place: Path) -> None:
    group = cgroup.make(50 * MB)
    assert group is not None
    code = "import sys; sys.stdin.readline(); x = b'x' * (200 * 2**20)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    group.add(child.pid)
    assert not group.exceeded()
    child.communicate(b"\n")
    assert child.returncode == -9
    assert group.exceeded()
    group.remove()
    assert not group._folder.exists()


@pytest.mark.real
def test_a_sandbox_is_in_a_cgroup_of_its_own_while_it_runs(bench: Any, place: Path) -> None:
    def own() -> list[Path]:
        return list(place.glob(f"sia-sandbox-{os.getpid()}-*"))

    worker = bench.worker("def solve(instance, ctx): return 42")
    assert bench.run(worker, [0])[0].answer == "42"
    (folder,) = own()
    assert len((folder / "cgroup.procs").read_text().split()) >= 2
    worker.close()
    assert own() == []
