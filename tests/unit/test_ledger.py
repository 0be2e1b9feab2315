"""A run's record: every step once and in order; damage, strangers and full disks are noticed and explained."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import LedgerError
from sia_core.run.ledger import FORMAT, UNFINISHED, Blobs, Ledger, canonical

VALUES: list[Any] = [None, True, 0, -1.5, "条 \u2028 \x7f", [], [1, [2]], {"b": 1, "a": {"条": None}}, 10**40]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three finished steps, closed."""
    with Ledger.create(tmp_path / "run-1") as ledger:
        for key in ("a", "b", "c"):
            ledger.record(key, {"of": key})
    return tmp_path / "run-1"


def database(run: Path, *statements: str) -> None:
    db = sqlite3.connect(run / "ledger.db")
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()


# Steps


def test_a_step_runs_once_also_after_the_run_was_closed(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        return len(calls)

    with Ledger.create(tmp_path / "run") as ledger:
        assert [ledger.step("k", work), ledger.step("k", work)] == [1, 1]
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.step("k", work) == 1
    assert calls == [1]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_a_step_gives_the_same_the_first_time_and_later(tmp_path: Path, value: Any) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        assert ledger.step("k", lambda: value) == value
    with Ledger.read(tmp_path / "run") as ledger:
        assert ledger.step("k", lambda: pytest.fail("ran again")) == value


def test_a_step_gives_what_json_makes_of_its_result_from_the_first_time_on(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        first = ledger.step("k", lambda: {"pair": (1, 2), "by": {3: "x"}})
        assert first == {"pair": [1, 2], "by": {"3": "x"}}
        assert ledger.step("k", lambda: None) == first


def test_a_step_whose_result_is_none_is_not_run_again(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.step("k", lambda: None)
        assert ledger.get("k") == (None,)
        assert ledger.step("k", lambda: 1) is None


def test_a_step_that_fails_is_not_recorded_and_can_be_run_again(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        with pytest.raises(ZeroDivisionError):
            ledger.step("k", lambda: 1 / 0)
        assert ledger.get("k") is None
        assert ledger.step("k", lambda: 2) == 2


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1, 2}, b"x", object()], ids=lambda each: type(each).__name__
)
def test_a_result_that_is_not_json_is_refused_by_the_steps_name(tmp_path: Path, value: Any) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        with pytest.raises(LedgerError, match=r"step 'k' gave what is not JSON: .*Nothing was recorded"):
            ledger.step("k", lambda: value)
        assert ledger.step("k", lambda: 1) == 1


def test_half_a_character_from_a_hostile_source_is_kept_and_stops_nothing(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        assert ledger.step("k", lambda: {"log": "\ud800!", "\udfff": 1}) == {"log": "\ud800!", "\udfff": 1}
    with Ledger.read(tmp_path / "run") as ledger:
        assert ledger.get("k") == ({"log": "\ud800!", "\udfff": 1},)


def test_events_are_listed_in_the_order_in_which_they_finished(run: Path) -> None:
    with Ledger.open(run) as ledger:
        ledger.record("rollouts/2", 2)
        ledger.record("rollouts/1", 1)
        ledger.record("rollouts%", 0)
        assert [(key, value) for key, value, _ in ledger.events("rollouts/")] == [("rollouts/2", 2), ("rollouts/1", 1)]
        assert [key for key, _, _ in ledger.events()][:3] == ["a", "b", "c"]


def test_a_key_is_recorded_once(run: Path) -> None:
    with Ledger.open(run) as ledger, pytest.raises(LedgerError):
        ledger.record("a", "another value")
    with Ledger.read(run) as ledger:
        assert ledger.get("a") == ({"of": "a"},)


def test_one_value_has_one_spelling() -> None:
    assert canonical({"b": 1, "a": [1.5, "条"]}) == '{"a":[1.5,"条"],"b":1}'


def test_threads_may_record_at_once(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as ledger:

        def work(name: int) -> None:
            for index in range(20):
                ledger.step(f"{name}/{index}", lambda: name)
                ledger.blobs.put(f"the same blob {index}".encode())

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(ledger.events())) == 80
    with Ledger.read(tmp_path / "run") as ledger:  # the chain holds
        assert len(list(ledger.events())) == 80


# Damage

DAMAGE = {
    "a changed value": ["""UPDATE events SET value = '{"of":"x"}' WHERE key = 'b'"""],
    "a changed key": ["UPDATE events SET key = 'x' WHERE key = 'a'"],
    "a changed link": ["UPDATE events SET chain = 'x' WHERE key = 'c'"],
    "a removed row": ["DELETE FROM events WHERE key = 'b'"],
    "a removed first row": ["DELETE FROM events WHERE key = 'a'"],
    "an added row": ["INSERT INTO events (key, value, chain, at) VALUES ('d', '1', 'x', 0)"],
    "reordered rows": [
        "UPDATE events SET seq = 9 WHERE key = 'b'",
        "UPDATE events SET seq = 2 WHERE key = 'c'",
        "UPDATE events SET seq = 3 WHERE key = 'b'",
    ],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_noticed_by_whoever_opens_the_run(run: Path, what: str) -> None:
    database(run, *DAMAGE[what])
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(
            LedgerError, match=r"ledger\.db is damaged at step \d \(.\)\. Restore the folder from a copy"
        ):
            opened(run)


def test_a_damaged_run_is_not_left_locked(run: Path) -> None:
    database(run, *DAMAGE["a removed row"])
    for _ in range(2):
        with pytest.raises(LedgerError, match="damaged"):
            Ledger.open(run)


def test_a_run_of_a_newer_version_asks_for_an_upgrade_and_stays_as_it_is(run: Path) -> None:
    database(run, f"PRAGMA user_version={FORMAT + 1}", "DROP TABLE events")
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(LedgerError, match=rf"newer sia-core \(format {FORMAT + 1}; .* `pip install -U sia-core`"):
            opened(run)


@pytest.mark.parametrize(
    "content", [b"not a database at all, " * 100, b"SQLite format 3\0" + bytes(500)], ids=["text", "head"]
)
def test_a_file_that_is_no_database_is_an_error_that_names_it(run: Path, content: bytes) -> None:
    (run / "ledger.db").write_bytes(content)
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(LedgerError, match=r"run-1.ledger\.db cannot be used: .*Nothing was changed"):
            opened(run)
    assert (run / "ledger.db").read_bytes() == content


def test_a_run_that_was_killed_while_its_record_was_made_reads_as_one_without_steps(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"")
    with Ledger.read(tmp_path) as ledger:
        assert ledger.get("run") is None
        assert list(ledger.events()) == []
    assert (tmp_path / "ledger.db").read_bytes() == b""
    with Ledger.open(tmp_path) as ledger:
        assert ledger.step("k", lambda: 1) == 1


def test_a_reader_undoes_what_a_writer_that_was_killed_had_begun(run: Path, tmp_path: Path) -> None:
    database(run, "PRAGMA journal_mode=DELETE")
    writer = sqlite3.connect(run / "ledger.db")
    writer.execute("PRAGMA cache_size=1")
    writer.executemany("UPDATE events SET value = ? WHERE key = ?", [("x" * 9000, key) for key in "abc"])
    killed = Path(shutil.copytree(run, tmp_path / "killed"))
    writer.close()
    assert (killed / "ledger.db-journal").stat().st_size > 0
    with Ledger.read(killed) as ledger:
        assert [(key, value) for key, value, _ in ledger.events()] == [(key, {"of": key}) for key in "abc"]


def test_what_a_kill_left_half_goes_when_the_run_is_gone_on_with_but_not_while_another_is_on_it(run: Path) -> None:
    half = run / UNFINISHED / "tmp1"
    half.parent.mkdir()
    half.write_text("ha")
    Ledger.read(run).close()
    with Ledger.open(run):
        assert not half.parent.exists()
        half.parent.mkdir()
        with pytest.raises(LedgerError, match="another process"):
            Ledger.open(run)
        assert half.parent.exists()


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path: Path) -> None:
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(LedgerError, match=r"holds no run \(no ledger\.db in it\); `sia runs` lists"):
            opened(tmp_path)


def test_a_run_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"file: (File exists|Not a directory)"):
        Ledger.create(tmp_path / "file")


# One who writes, many who read


@pytest.mark.real
def test_a_second_process_is_refused_with_the_pid_of_the_first(run: Path) -> None:
    program = (
        "import sys; from sia_core.run.ledger import Ledger; from pathlib import Path\nLedger.open(Path(sys.argv[1]))"
    )
    with Ledger.open(run):
        result = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=False)
        assert f"LedgerError: {run}: another process (pid {os.getpid()}) is on this run" in result.stderr
    Ledger.open(run).close()


def test_a_run_may_be_read_while_it_is_written(run: Path) -> None:
    with Ledger.open(run) as writer, Ledger.read(run) as reader:
        writer.record("d", 4)
        assert reader.get("d") == (4,)
        with Ledger.read(run) as late:
            assert len(list(late.events())) == 4


def test_a_run_may_be_read_in_a_folder_that_may_not_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with Ledger.read(run) as reader:
        assert reader.get("a") == ({"of": "a"},)
        assert sorted(path.name for path in run.iterdir()) == ["ledger.db", "lock"]


def test_who_reads_cannot_write(run: Path) -> None:
    with Ledger.read(run) as reader, pytest.raises(LedgerError, match="readonly"):
        reader.record("d", 4)


def test_a_ledger_may_be_closed_twice(run: Path) -> None:
    ledger = Ledger.open(run)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed database"):
        ledger.get("a")


# Full disks


def test_a_full_disk_is_explained_and_what_was_finished_is_kept(run: Path) -> None:
    with Ledger.open(run) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(
            LedgerError, match=r"the disk is full at .*run-1; what was finished is kept.*`sia resume run-1`"
        ):
            ledger.record("large", "x" * 100_000)
        ledger._db.execute("PRAGMA max_page_count=100000")
        assert ledger.step("large", lambda: "again") == "again"
    with Ledger.read(run) as ledger:
        assert [key for key, _, _ in ledger.events()] == ["a", "b", "c", "large"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from sia_core.errors import LedgerError
from sia_core.run.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Ledger.open(Path(sys.argv[1])) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    for act in (lambda: ledger.record("large", "x" * 200_000), lambda: ledger.blobs.put(bytes(200_000))):
        try:
            act()
        except LedgerError as error:
            print("explained:", error)
"""


@pytest.mark.real
def test_a_limit_on_the_size_of_files_is_explained_and_what_was_finished_is_kept(run: Path) -> None:
    result = subprocess.run([sys.executable, "-c", LIMITED, str(run)], capture_output=True, text=True, check=True)
    assert result.stdout.count("explained:") == 2
    with Ledger.open(run) as ledger:
        assert [key for key, _, _ in ledger.events()] == ["a", "b", "c"]
    assert [path for path in (run / "blobs").rglob("*") if path.is_file()] == []


# Blobs


def test_a_blob_is_written_once(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(b"content")
    before = blobs.path(digest).stat()
    assert blobs.put(b"content") == digest
    after = blobs.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert blobs.get(digest) == b"content"


def test_a_damaged_blob_is_noticed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(b"content")
    blobs.path(digest).write_bytes(b"contents")
    with pytest.raises(LedgerError, match=rf"{digest} is damaged: its content is not what its name says"):
        blobs.get(digest)


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"0{64}: No such file or directory; the run's folder is incomplete"):
        Blobs(tmp_path / "blobs").get("0" * 64)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_an_interrupted_write_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    blobs = Blobs(tmp_path / "blobs")
    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        blobs.put(b"content")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert blobs.get(blobs.put(b"content")) == b"content"


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "the disk is full at"), (errno.EIO, "Input/output error")])
def test_a_blob_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(LedgerError, match=says):
        Blobs(tmp_path / "blobs").put(b"content")


def test_a_blob_whose_writer_was_stopped_before_its_name_was_durable_is_relied_on_only_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    blobs = Blobs(tmp_path / "blobs")
    with monkeypatch.context() as patch:
        patch.setattr("sia_core.run.ledger.sync_folder", stopped)
        with pytest.raises(KeyboardInterrupt):
            blobs.put(b"content")
    synced: list[Path] = []
    monkeypatch.setattr("sia_core.run.ledger.sync_folder", synced.append)
    for again in (blobs, Blobs(tmp_path / "blobs")):
        digest = again.put(b"content")
        assert synced == [blobs.path(digest).parent, tmp_path / "blobs", tmp_path]
        synced.clear()
        again.put(b"content")
        assert synced == []
