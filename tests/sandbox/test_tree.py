"""Trees of processes and files, measured and removed without trust in what they hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sia_core.errors import SandboxError
from sia_runtime.sandbox import tree
from sia_runtime.sandbox.own_folder import claim, own_folder, sweep


def test_a_tree_however_deep_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "kept"
    other.mkdir()
    (other / "file").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        os.symlink(other, "link", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkfifo("fifo", dir_fd=here)
    os.fchmod(here, 0)
    os.close(here)
    tree.remove(str(root))
    assert not root.exists()
    assert (other / "file").read_text() == "x"


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


def test_a_folder_too_deep_to_be_looked_into_is_past_every_limit(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert tree.disk(str(tmp_path)) >= sys.maxsize
    tree.empty(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_threads_are_counted_as_the_kernel_counts_them() -> None:
    code = "import threading, sys\nfor _ in range(3): threading.Thread(target=sys.stdin.read, daemon=True).start()"
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\nsys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tree.threads([process.pid]) == 4
        process.kill()
    assert tree.threads([process.pid]) == 0


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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return own_folder()


def old(folder: Path) -> Path:
    (folder / "scratch").mkdir(parents=True)
    (folder / "scratch" / "file").write_text("x")
    os.utime(folder, (0, 0))
    return folder


def test_the_folder_of_an_orchestrator_that_was_killed_is_removed_and_that_of_a_live_one_is_not(own: Path) -> None:
    old(own / "left")
    (own / "young").mkdir()
    handle = claim(old(own / "held"))
    sweep()
    os.close(handle)
    assert sorted(path.name for path in own.iterdir()) == ["held", "young"]


def test_a_sweep_follows_no_link_and_touches_nothing_beside_the_own_folder(own: Path, tmp_path: Path) -> None:
    precious = old(tmp_path / "precious")
    for link in (tmp_path / "sia-sandbox-1", tmp_path / f"{own.name}-1", own / "link"):
        link.symlink_to(precious)
    beside = old(tmp_path / "sia-sandbox-2")
    os.mkfifo(own / "fifo")
    sweep()
    assert (precious / "scratch" / "file").read_text() == "x"
    assert (beside / "scratch" / "file").exists()


def test_the_own_folder_is_closed_to_others_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mask, mode in ((0o000, 0o700), (0o077, 0o700), (0o777, 0o700)):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / str(mask)))
        (tmp_path / str(mask)).mkdir()
        before = os.umask(mask)
        try:
            assert own_folder().stat().st_mode & 0o777 == mode
        finally:
            os.umask(before)


@pytest.mark.parametrize("obstacle", ["link to a folder", "link to nothing", "file", "open to all", "of another user"])
def test_a_name_that_somebody_took_is_refused_with_what_to_do(own: Path, tmp_path: Path, obstacle: str) -> None:
    own.rmdir()
    if obstacle == "link to a folder":
        own.symlink_to(tmp_path)
    elif obstacle == "link to nothing":
        own.symlink_to(tmp_path / "nothing")
    elif obstacle == "file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777 if obstacle == "open to all" else 0o700)
    if obstacle == "of another user":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(own, 12345, 12345)
    with pytest.raises(SandboxError, match=r"remove it, or set TMPDIR"):
        own_folder()


def test_a_folder_that_becomes_a_link_while_it_is_removed_or_counted_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, root = old(tmp_path / "kept"), old(tmp_path / "root")
    listed = os.listdir

    def swapped(folder: int) -> list[str]:
        names = listed(folder)
        if "scratch" in names:
            os.rename(root / "scratch", tmp_path / "aside")
            os.symlink(other / "scratch", root / "scratch")
        return names

    monkeypatch.setattr(os, "listdir", swapped)
    tree.remove(str(root))
    assert not root.exists()
    assert (other / "scratch" / "file").exists()
