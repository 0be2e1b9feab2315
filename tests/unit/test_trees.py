"""Harness trees are kept as blobs, and run from folders that copy nothing."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sia_core.errors import LedgerError
from sia_core.harness import HarnessTree
from sia_core.run.ledger import UNFINISHED, Blobs
from sia_core.run.trees import Trees
from sia_runtime.worker.harness_folder import harness_folder

TREE = HarnessTree({"harness.py": b"1\n", "lib/a.py": b"", "lib/deep/b c.py": b"\xff", "条.py": b"2"})


def test_a_tree_comes_back_as_it_was_under_its_own_name(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    assert trees.put(TREE) == TREE.digest
    assert trees.get(TREE.digest) == TREE
    assert HarnessTree.from_folder(harness_folder(tmp_path, TREE.digest)) == TREE


def test_an_empty_tree_is_a_tree(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    assert trees.get(trees.put(HarnessTree({}))) == HarnessTree({})


def test_no_content_is_stored_twice(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    trees.put(TREE)
    folder = harness_folder(tmp_path, TREE.digest)
    for path in TREE.files:
        assert (folder / path).stat().st_nlink == 2
    other = HarnessTree({**TREE.files, "harness.py": b"changed\n"})
    before = {path for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    trees.put(other)
    after = {path for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert len(after - before) == 2  # the file that changed, and the listing


def test_a_tree_is_readable_by_another_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        trees = Trees(tmp_path)
        trees.put(TREE)
        folder = harness_folder(tmp_path, TREE.digest)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        bits = stat.S_IRGRP | stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        assert path.stat().st_mode & bits == bits, path


@pytest.mark.parametrize("damage", ["file", "listing"])
def test_a_damaged_tree_is_noticed(tmp_path: Path, damage: str) -> None:
    trees = Trees(tmp_path)
    digest = trees.put(TREE)
    blobs = Blobs(tmp_path / "blobs")
    blobs.path(digest if damage == "listing" else blobs.put(b"1\n")).write_bytes(b"damaged")
    with pytest.raises(LedgerError, match="is damaged"):
        trees.get(digest)


def test_a_tree_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the run's folder is incomplete"):
        Trees(tmp_path).get("0" * 64)


def test_where_there_are_no_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    trees = Trees(tmp_path)
    trees.put(TREE)
    assert HarnessTree.from_folder(harness_folder(tmp_path, TREE.digest)) == TREE


def test_an_interrupted_folder_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trees = Trees(tmp_path)
    trees.put(TREE)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(LedgerError, match=r"the disk is full at .*Free some space, then go on with `sia resume"):
        harness_folder(tmp_path, TREE.digest)
    assert [path for name in ("trees", UNFINISHED) for path in (tmp_path / name).iterdir()] == []


def test_threads_may_ask_for_one_folder_at_once(tmp_path: Path) -> None:
    go = threading.Barrier(8)
    Trees(tmp_path).put(TREE)

    def work(_: int) -> HarnessTree:
        go.wait()
        return HarnessTree.from_folder(harness_folder(tmp_path, TREE.digest))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [TREE] * 8
    assert [path.name for path in (tmp_path / "trees").iterdir()] == [TREE.digest]
