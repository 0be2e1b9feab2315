"""Trees of processes and files, measured and removed without trust in what they hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sia_core.sandbox import process, running, tree


def test_a_tree_however_deep_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        os.symlink(kept, "link", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkfifo("fifo", dir_fd=here)
    os.fchmod(here, 0)
    os.close(here)
    tree.remove(str(root))
    assert not root.exists()
    assert (kept / "file").read_text() == "x"


def test_disk_counts_what_is_below_and_not_what_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = tree.disk(str(tmp_path))
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "a" / "link").symlink_to(sys.executable)
    assert 100_000 <= tree.disk(str(tmp_path)) - before < 120_000


def test_empty_files_count_too(tmp_path: Path) -> None:
    before = tree.disk(str(tmp_path))
    for number in range(10):
        (tmp_path / str(number)).touch()
    assert tree.disk(str(tmp_path)) - before >= 10 * 4096


def test_descendants_are_found_and_measured() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        below = tree.descendants(os.getpid())
        assert process.pid in below
        (inner,) = tree.descendants(process.pid)
        assert tree.memory([inner], 10**12) > 10**6
        # Exact where the bound does not suffice: shared pages are split.
        assert 0 < tree.memory([inner], 0) < tree.memory([inner], 10**12)
        process.communicate("done\n")
    assert tree.descendants(process.pid) == []
    assert tree.memory([process.pid], 0) == 0


def test_the_folder_of_an_orchestrator_that_was_killed_is_removed_and_that_of_a_live_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, held = (tmp_path / f"sia-sandbox-{name}" for name in ("left", "young", "held"))
    for folder in (left, young, held):
        (folder / "scratch").mkdir(parents=True)
        (folder / "scratch" / "file").write_text("x")
    for folder in (left, held):
        os.utime(folder, (0, 0))
    handle = running._claim(held)
    process._sweep()
    os.close(handle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sia-sandbox-held", "sia-sandbox-young"]
