"""Folders that a stranger may have made: links, pipes, devices and endless files are refused by their path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from released import task_folder

from sia_cli import main
from sia_core.errors import HarnessError, UsageError
from sia_core.given_files import read_file, read_folder
from sia_core.harness import HarnessTree
from sia_core.playbook import PLAYBOOK, Playbook
from sia_released.task import Folder
from sia_released.verifier import Evaluate
from sia_runtime.cases import Cases, read_cases


@pytest.fixture(autouse=True)
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "file").write_text("secret")
    return tmp_path / "secrets"


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret / "file")


def link_to_a_folder(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def link_to_nothing(path: Path, secret: Path) -> None:
    path.symlink_to("nowhere")


def link_to_a_device(path: Path, secret: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


Trap = Callable[[Path, Path], None]


def use_task(folder: Path) -> None:
    task = Folder(str(folder))
    task.public_dir(("public", "search"))
    task.seed_harness()
    task.playbook()
    Evaluate(**task.verifier.settings)


def use_agent(data: Path, agent: Path) -> None:
    task = Cases(str(data), str(agent))
    task.playbook()
    assert "secret" not in task.brief
    task.seed_harness()


TRAPS = [link, link_to_a_folder, link_to_nothing, link_to_a_device, pipe]
traps = pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)


@pytest.mark.thorough
@traps
@pytest.mark.parametrize(
    "place",
    [
        *("data", "data/public", "data/private", "data/public/notes.txt", "data/private/notes.txt"),
        *("data/public/task.md", "data/public/evaluate.py", "data/public/deep/er/notes.txt"),
        *("reference", "reference/reference_target_agent.py", "playbook.toml"),
    ],
)
def test_a_task_folder_with_a_trap_is_refused_by_its_path(trap: Trap, place: str, tmp_path: Path, secret: Path) -> None:
    folder = task_folder(tmp_path / "task")
    if (folder / place).exists():
        os.rename(folder / place, tmp_path / "aside")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    trap(folder / place, secret)
    with pytest.raises(UsageError, match=str(folder / place)):
        use_task(folder)


@pytest.mark.thorough
@traps
def test_a_trap_beside_the_data_is_not_imported_and_nothing_is_written(
    trap: Trap, tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = task_folder(tmp_path / "task")
    trap(folder / "big", secret)
    assert main(["import-task", str(folder), "--into", str(tmp_path / "into")]) == 2
    assert str(folder / "big") in capsys.readouterr().err
    assert not (tmp_path / "into").exists()


@traps
@pytest.mark.parametrize("place", ["notes.py", "deep/notes.py", "harness.toml", "README.md", "playbook.toml"])
def test_a_harness_with_a_trap_is_refused_by_its_path(trap: Trap, place: str, tmp_path: Path, secret: Path) -> None:
    agent, data = tmp_path / "agent", tmp_path / "cases.jsonl"
    HarnessTree({"harness.py": b"", "deep/other.py": b""}).write_to(agent)
    data.write_text("".join(f'{{"input": {number}, "answer": 1}}\n' for number in range(8)))
    trap(agent / place, secret)
    with pytest.raises((HarnessError, UsageError), match=str(agent / place)):
        use_agent(data, agent)


def test_a_file_of_cases_that_never_ends_is_refused_and_a_link_that_the_user_names_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is no plain file"):
            read_cases(path)
    (tmp_path / "cases.jsonl").write_text("".join(f'{{"input": {number}, "answer": 1}}\n' for number in range(8)))
    (tmp_path / "link").symlink_to("cases.jsonl")
    assert len(read_cases(tmp_path / "link")) == 8


def test_a_folder_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "task")
    (tmp_path / "link").symlink_to(folder)
    assert Folder(str(tmp_path / "link")).brief == Folder(str(folder)).brief
    assert Playbook.in_folder(tmp_path / "link") == Playbook.from_toml(folder / PLAYBOOK)
    assert Playbook.in_folder(tmp_path / "nowhere") is None


def test_a_file_that_becomes_a_link_after_it_was_looked_at_is_not_followed(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("harmless")
    look = os.stat

    def swapped(path: str, **options: bool) -> os.stat_result:
        about = look(path, **options)
        if path == "file":
            (tmp_path / "given" / "file").unlink()
            (tmp_path / "given" / "file").symlink_to(secret / "file")
        return about

    monkeypatch.setattr(os, "stat", swapped)
    with pytest.raises(UsageError, match="given/file"):
        read_file(tmp_path / "given", "file")


def test_more_files_bytes_or_folders_than_are_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "file").touch()
    os.truncate(tmp_path / "sparse" / "file", 2**40)
    with pytest.raises(UsageError, match="more files or bytes"):
        dict(read_folder(tmp_path, "sparse", most_bytes=1000))
    (tmp_path / "many").mkdir()
    for number in range(4):
        (tmp_path / "many" / str(number)).touch()
    with pytest.raises(UsageError, match="more files or bytes"):
        dict(read_folder(tmp_path, "many", most_files=3))
    (tmp_path / "deep" / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(UsageError, match="deeper than 32 folders"):
        dict(read_folder(tmp_path, "deep"))
    (tmp_path / "odd").mkdir()
    (tmp_path / os.fsdecode(b"odd/\xff")).touch()
    with pytest.raises(UsageError, match="rename it"):
        dict(read_folder(tmp_path, "odd"))
