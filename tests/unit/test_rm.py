"""``sia rm`` removes what was named, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sia_cli import main
from sia_core.run.ledger import Ledger


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        with Ledger.create(tmp_path / "runs" / name) as ledger:
            ledger.step("run", dict)
    return tmp_path / "runs"


def names(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir())


def test_a_run_is_removed_by_name_or_by_path(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "--yes", "first", str(runs / "second"), "--runs-dir", str(runs)]) == 0
    assert names(runs) == []
    assert capsys.readouterr().out.count("removed ") == 2


def test_nothing_is_removed_where_one_name_is_wrong(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "-y", "first", "thrid", "--runs-dir", str(runs)]) == 2
    assert names(runs) == ["first", "second"]
    assert "no run 'thrid'" in capsys.readouterr().err


def test_a_folder_that_is_no_run_stays(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "precious").mkdir()
    assert main(["rm", "-y", str(tmp_path / "precious"), "--runs-dir", str(runs)]) == 2
    assert (tmp_path / "precious").is_dir()


def test_a_run_of_which_the_record_was_not_copied_is_said_to_lack_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "half").mkdir()
    assert main(["rm", "-y", "half", "--runs-dir", str(runs)]) == 2
    assert "(that folder has no ledger.db); the last ones there: first, second" in capsys.readouterr().err


def test_a_run_that_is_going_on_stays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(runs / "first"):
        assert main(["rm", "-y", "first", "--runs-dir", str(runs)]) == 2
    assert names(runs) == ["first", "second"]
    assert "another process" in capsys.readouterr().err


def test_what_a_run_links_to_stays(tmp_path: Path, runs: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("years of work")
    (runs / "first" / "away").symlink_to(precious)
    assert main(["rm", "-y", "first", "--runs-dir", str(runs)]) == 0
    assert (precious / "thesis").read_text() == "years of work"
    (runs / "third").symlink_to(runs / "second")
    assert main(["rm", "-y", "third", "--runs-dir", str(runs)]) == 2
    assert names(runs) == ["second", "third"]


def test_where_nobody_can_be_asked_yes_is_needed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "first", "--runs-dir", str(runs)]) == 2
    assert "add --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reply", "remaining"), [("y", ["second"]), ("", ["first", "second"]), ("no", ["first", "second"])]
)
def test_a_person_is_asked(runs: Path, monkeypatch: pytest.MonkeyPatch, reply: str, remaining: list[str]) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: reply)
    main(["rm", "first", "--runs-dir", str(runs)])
    assert names(runs) == remaining


def test_a_person_who_ends_the_input_has_not_said_yes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ended)
    assert main(["rm", "first", "--runs-dir", str(runs)]) == 1
    assert names(runs) == ["first", "second"]


def test_a_run_that_is_named_twice_is_removed_once(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "--yes", "first", str(runs / "first"), f"{runs}/./first/", "--runs-dir", str(runs)]) == 0
    assert capsys.readouterr().out.count("removed") == 1
