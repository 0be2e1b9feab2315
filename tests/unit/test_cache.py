"""Derived files are written whole or not at all, once."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError

FILES = {"cases.jsonl": "条\n".encode(), "empty": b""}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_holds_the_files_and_is_made_once(tmp_path: Path) -> None:
    folder = write_once(tmp_path / "a" / "b", FILES)
    before = folder.stat()
    assert content(folder) == FILES
    assert write_once(tmp_path / "a" / "b", dict(reversed(FILES.items()))) == folder
    assert (folder.stat().st_ino, folder.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((tmp_path / "a" / "b").iterdir()) == [folder]


def test_other_names_or_contents_are_another_folder(tmp_path: Path) -> None:
    different = [FILES, {**FILES, "empty": b"x"}, {"cases.jsonl": FILES["cases.jsonl"], "nothing": b""}, {}]
    assert len({write_once(tmp_path, files) for files in different}) == 4


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_once(tmp_path, FILES)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_get_the_same_whole_folder(tmp_path: Path) -> None:
    go = threading.Barrier(8)

    def work(_: int) -> dict[str, bytes]:
        go.wait()
        return content(write_once(tmp_path, FILES))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [FILES] * 8
    assert len(list(tmp_path.iterdir())) == 1


def test_a_slower_process_takes_the_folder_of_the_faster_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_once(tmp_path / "other", FILES).name
    rename = os.rename

    def beaten(source: Path, _: Path) -> None:
        write_the_same = tmp_path / "mine" / target
        if not write_the_same.exists():
            write_the_same.mkdir()
            (write_the_same / "empty").write_bytes(b"")
        rename(source, write_the_same)

    monkeypatch.setattr(os, "rename", beaten)
    assert write_once(tmp_path / "mine", FILES) == tmp_path / "mine" / target
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [target]


def test_the_files_are_readable_by_another_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = write_once(tmp_path, FILES)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: .*; set XDG_CACHE_HOME to a folder with room"):
        write_once(tmp_path / "file", FILES)


@pytest.mark.parametrize("value", [None, "", "relative/folder"])
def test_the_cache_is_where_the_user_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder("public") == tmp_path / "elsewhere" / "sia" / "public"
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder("public") == tmp_path / ".cache" / "sia" / "public"
