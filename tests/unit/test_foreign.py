"""A run's folder that somebody else made: whoever opens it loses no file, waits for nothing and hears what is wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import golden_runs
import pytest
from pydantic import BaseModel, Field

from sia_cli import main
from sia_core import __version__
from sia_core.errors import HarnessError, LedgerError, SiaError
from sia_core.harness import MAX_BYTES, HarnessTree
from sia_core.plugins import Plugins
from sia_core.run import database, start
from sia_core.run.ledger import Blobs, Ledger, canonical
from sia_core.run.rollouts import new_secret
from sia_core.run.run_folders import runs_in
from sia_core.run.secret import SECRET, keep_secret
from sia_core.run.start import Config
from sia_core.run.trees import Trees, adapter_folder
from sia_core.types import Job, OfferRef, Task
from sia_deploy.export import pinned
from sia_reading.artefact import made_of
from sia_reading.report import build
from sia_runtime.worker.harness_folder import harness_folder
from sia_weights.lever import WeightLever

OPENED = (Ledger.read, Ledger.open)
TREE = HarnessTree({"harness.py": b"def solve(instance, ctx): return 1\n", "src/more.py": b"1\n"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two steps, closed."""
    with Ledger.create(tmp_path / "runs" / "run-1") as ledger:
        ledger.record("a", {"of": "a"})
        ledger.record("b", {"of": "b"})
    return tmp_path / "runs" / "run-1"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the reader's."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def altered(run: Path, *statements: str) -> None:
    with closing(sqlite3.connect(run / "ledger.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


# Journals


def name_super_journal(run: Path, victim: Path) -> None:
    """A rollback journal after whose replay SQLite deletes the victim."""
    altered(run, "PRAGMA journal_mode=DELETE")
    with closing(sqlite3.connect(run / "ledger.db")) as db:
        page, pages = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    magic, name = bytes.fromhex("d9d505f920a163d7"), os.fsencode(victim)
    head = (magic + struct.pack(">IIIII", 0, 0, pages, 512, page)).ljust(512, b"\0")
    tail = struct.pack(">I", 0x40000000 // page + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    (run / "ledger.db-journal").write_bytes(head + tail)


def name_super_journal_beside_a_log(run: Path, victim: Path) -> None:
    """The same, with a write-ahead log beside it."""
    name_super_journal(run, victim)
    (run / "ledger.db-wal").write_bytes(bytes(4096))


def name_super_journal_with_nothing_else(run: Path, victim: Path) -> None:
    """The same, beside a record without a byte."""
    name_super_journal(run, victim)
    (run / "ledger.db").write_bytes(b"")


JOURNALS = (name_super_journal, name_super_journal_beside_a_log, name_super_journal_with_nothing_else)


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("opened", OPENED, ids=lambda each: each.__name__)
def test_a_journal_that_names_another_file_deletes_it_neither_for_readers_nor_at_resume(
    run: Path, victim: Path, journal: Callable[[Path, Path], None], opened: Callable[[Path], Ledger]
) -> None:
    journal(run, victim)
    before = {name: content for name, content in contents(run).items() if name != "lock"}
    with pytest.raises(LedgerError, match=r"ledger\.db-journal names another file, for SQLite to delete"):
        opened(run)
    assert [path.name for path in runs_in(run.parent)] == ["run-1"]
    assert victim.read_text() == "precious"
    assert {name: content for name, content in contents(run).items() if name != "lock"} == before


def left_by_a_kill(run: Path, tmp_path: Path, mode: str) -> Path:
    """A copy of the run's folder as it is in the middle of a writer's work."""
    with closing(sqlite3.connect(run / "ledger.db")) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("PRAGMA cache_size=1")
        chain = db.execute("SELECT chain FROM events ORDER BY seq DESC LIMIT 1").fetchone()[0]
        link = hashlib.sha256(f'{chain}\nc\n{{"of":"c"}}'.encode()).hexdigest()
        with db:
            db.execute("INSERT INTO events VALUES (3, 'c', '{\"of\":\"c\"}', ?, 1.0)", (link,))
        db.execute("BEGIN")
        db.execute("INSERT INTO events VALUES (4, 'd', ?, 'x', 1.0)", ("x" * 90_000,))
        return Path(shutil.copytree(run, tmp_path / f"killed-{mode}"))


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_what_a_killed_writer_left_is_read_in_full_and_not_a_byte_of_the_folder_changes(
    run: Path, tmp_path: Path, mode: str
) -> None:
    killed = left_by_a_kill(run, tmp_path, mode)
    assert {"WAL": "ledger.db-wal", "DELETE": "ledger.db-journal"}[mode] in contents(killed)
    before = contents(killed)
    with Ledger.read(killed) as ledger:
        assert [key for key, _, _ in ledger.events()] == ["a", "b", "c"]
    assert contents(killed) == before
    with Ledger.open(killed) as ledger:  # its writer does take it in
        assert [key for key, _, _ in ledger.events()] == ["a", "b", "c"]


def test_a_reader_of_a_run_that_goes_on_sees_each_step_when_it_is_recorded(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run") as writer, Ledger.read(tmp_path / "run") as reader:
        for number in range(40):  # over several checkpoints of the log
            writer.record(str(number), "x" * 200_000)
            assert [key for _, key in reader.since(number)] == [str(number)]
        assert reader.get("39") == ("x" * 200_000,)
    with Ledger.read(tmp_path / "run") as late:
        assert len(list(late.events())) == 40


def test_a_reader_leaves_no_copy_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with Ledger.open(run) as writer, Ledger.read(run) as reader:
        writer.record("c", 1)
        assert reader.get("c") == (1,)
        assert [path.stat().st_mode & 0o777 for path in (tmp_path / "temporary").iterdir()] == [0o700]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_reader_that_was_closed_stays_closed_and_holds_nothing(run: Path) -> None:
    reader = Ledger.read(run)
    before = len(os.listdir("/proc/self/fd"))
    reader.close()
    with Ledger.open(run) as writer:
        writer.record("c", 1)
    with pytest.raises(LedgerError, match="closed database"):
        reader.get("c")
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_record_that_another_took_the_place_of_is_not_read_as_the_one_that_was_opened(run: Path) -> None:
    with Ledger.read(run) as reader:
        shutil.rmtree(run)
        with Ledger.create(run) as other:
            other.record("a", "another run")
        with pytest.raises(LedgerError, match="was replaced by another since it was opened"):
            reader.get("a")


# What is in the database

ENDLESS = "WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n)"
SCHEMAS = {
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END"],
    "another table": ["CREATE TABLE more (a)"],
    "a sequence": ["CREATE TABLE more (a INTEGER PRIMARY KEY AUTOINCREMENT)", "DROP TABLE more"],
    "a virtual table": ["CREATE VIRTUAL TABLE more USING fts5(a)"],
    "an index": ["CREATE INDEX more ON events (at)"],
    "a view": ["CREATE VIEW more AS SELECT 1"],
    "an endless view by the table's name": [
        "DROP TABLE events",
        f"CREATE VIEW events AS {ENDLESS} SELECT seq, 'k' AS key, '1' AS value, 'c' AS chain, 1.0 AS at FROM n",
    ],
    "a column more": ["ALTER TABLE events ADD COLUMN more TEXT"],
    "a generated column": ["ALTER TABLE events ADD COLUMN more TEXT AS (hex(zeroblob(100000000)))"],
    "a table that is not strict": [
        "DROP TABLE events",
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT, chain TEXT, at REAL)",
    ],
}


@pytest.mark.parametrize("what", SCHEMAS)
def test_a_record_that_holds_more_than_its_table_is_refused_at_once(run: Path, what: str) -> None:
    altered(run, *SCHEMAS[what])
    for opened in OPENED:
        with pytest.raises(LedgerError, match=r"ledger\.db is not as SIA writes it: its \w+ '\w+' is none of a run's"):
            opened(run)
    assert [path.name for path in runs_in(run.parent)] == ["run-1"]


ROWS = {
    "a number as a key": (3, 4, "1", "x", 1.0),
    "bytes as a value": (3, "c", b"1", "x", 1.0),
    "nothing as a chain": (3, "c", "1", None, 1.0),
    "a time that is no number": (3, "c", "1", "x", "now"),
    "a time without end": (3, "c", "1", "right", 1e999),
    "a row before the first": (-(2**63), "c", "1", "right", 1.0),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_row_of_the_wrong_types_is_an_error_that_names_it(run: Path, what: str) -> None:
    seq, key, value, chain, at = ROWS[what]
    with closing(sqlite3.connect(run / "ledger.db")) as db, db:
        before = "" if seq < 0 else db.execute("SELECT chain FROM events ORDER BY seq DESC").fetchone()[0]
        right = hashlib.sha256(f"{before}\n{key}\n{value}".encode()).hexdigest()
        db.execute("PRAGMA writable_schema=ON")
        table = db.execute("SELECT sql FROM sqlite_master WHERE name = 'events'").fetchone()[0]
        loose = table.replace("STRICT", "").replace(" NOT NULL", "").replace("TEXT", "").replace("REAL", "")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'events'", (loose,))
    with closing(sqlite3.connect(run / "ledger.db")) as db, db:
        db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)", (seq, key, value, right if chain == "right" else chain, at)
        )
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'events'", (table,))
    for opened in OPENED:
        with pytest.raises(LedgerError, match=r"ledger\.db is damaged at step -?\d+ \((c|4)\)"):
            opened(run)


TEXTS = {
    "no JSON": "{",
    "a deep nest": "[" * 100_000,
    "a number of too many digits": "9" * 5_000,
    "what is no number": '{"a": NaN}',
    "an endless one": "-Infinity",
    "one past the largest": '{"a": 1e999}',
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_value_that_is_not_json_is_an_error_that_names_its_step(run: Path, what: str) -> None:
    with closing(sqlite3.connect(run / "ledger.db")) as db, db:
        chain = db.execute("SELECT chain FROM events ORDER BY seq DESC").fetchone()[0]
        link = hashlib.sha256(f"{chain}\nrun\n{TEXTS[what]}".encode()).hexdigest()
        db.execute("INSERT INTO events VALUES (3, 'run', ?, ?, 1.0)", (TEXTS[what], link))
    with Ledger.read(run) as ledger:
        with pytest.raises(LedgerError, match=r"what is recorded for step 'run' is not JSON"):
            ledger.get("run")
        with pytest.raises(LedgerError, match=r"what is recorded for step 'run' is not JSON"):
            list(ledger.events())


@pytest.mark.parametrize(
    "value", [1, "x", [], {"config": []}, {"config": {"plan": 1}}, {"config": None}], ids=canonical
)
def test_records_of_another_shape_are_an_error_and_no_traceback(tmp_path: Path, value: Any) -> None:
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.record("run", value)
        with pytest.raises(LedgerError, match="this version cannot make sense of its records"):
            build(ledger)


# Links and special files


def as_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def as_folder(path: Path, victim: Path) -> None:
    path.mkdir()


def as_pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def as_zero(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


def as_socket(path: Path, victim: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


STRANGE = (as_link, as_folder, as_pipe, as_zero, as_socket)


@pytest.mark.parametrize("strange", STRANGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal", "ledger.db-journal", "ledger.db-shm"])
def test_a_record_that_is_no_plain_file_is_refused_by_all_and_nothing_waits_for_it(
    run: Path, victim: Path, name: str, strange: Callable[[Path, Path], None]
) -> None:
    shutil.copyfile(run / "ledger.db", victim)  # a link to a sound record is refused as well
    (run / name).unlink(missing_ok=True)
    strange(run / name, victim)
    before = victim.read_bytes()
    for opened in OPENED:
        with pytest.raises(LedgerError, match=rf"{name} is a (link|folder|pipe|socket); SIA writes only plain files"):
            opened(run)
    assert [path.name for path in runs_in(run.parent)] == ["run-1"]
    assert victim.read_bytes() == before


@pytest.mark.parametrize("strange", STRANGE, ids=lambda each: each.__name__)
def test_a_lock_that_is_no_plain_file_is_refused_and_what_it_leads_to_stays(
    run: Path, victim: Path, strange: Callable[[Path, Path], None]
) -> None:
    (run / "lock").unlink()
    strange(run / "lock", victim)
    with pytest.raises(LedgerError, match=r"lock is a (link|folder|pipe|socket)"):
        Ledger.open(run)
    assert victim.read_text() == "precious"


def test_a_lock_or_a_record_with_a_second_name_is_not_written_through(run: Path, victim: Path) -> None:
    (run / "lock").unlink()
    (run / "lock").hardlink_to(victim)
    with pytest.raises(LedgerError, match=r"lock has another name elsewhere \(a hard link\)"):
        Ledger.open(run)
    (run / "lock").unlink()
    (run.parent / "second").hardlink_to(run / "ledger.db")
    with pytest.raises(LedgerError, match=r"ledger\.db has another name elsewhere \(a hard link\)"):
        Ledger.open(run)
    with Ledger.read(run) as ledger:  # to look at it harms nobody
        assert ledger.get("a") == ({"of": "a"},)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("place", ["blobs", "blobs/ab", "trees", "adapters", "unfinished", "policy", "new", "blobs/f"])
def test_a_link_anywhere_in_the_folder_stops_whoever_would_write_there(run: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(tmp_path / "outside")
    with pytest.raises(LedgerError, match=rf"{place} is a link"):
        Ledger.open(run)
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]


# Blobs and trees

NAMES = {
    "a way out": "../../victim",
    "a whole path": "/etc/passwd",
    "capitals": "A" * 64,
    "one digit less": "a" * 63,
    "one more": "a" * 65,
    "a line break": "a" * 64 + "\n",
    "other digits": "\u0661" * 64,
    "nothing": "",
    "a number": 7,
    "a list": ["a" * 64],
}


@pytest.mark.parametrize("what", NAMES)
def test_a_name_that_is_no_digest_is_never_part_of_a_path(run: Path, what: str) -> None:
    name: Any = NAMES[what]
    for take in (
        Blobs(run / "blobs").get,
        Trees(run).get,
        partial(harness_folder, run),
        lambda name: adapter_folder(run, name),
    ):
        with pytest.raises(LedgerError, match="where the digest of a content must stand"):
            take(name)


@pytest.mark.parametrize("strange", STRANGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("place", ["the blob", "its folder", "all blobs"])
def test_a_blob_is_read_from_a_plain_file_in_plain_folders_alone(
    run: Path, tmp_path: Path, victim: Path, strange: Callable[[Path, Path], None], place: str
) -> None:
    blobs = Blobs(run / "blobs")
    digest = blobs.put(b"precious")
    path = {"the blob": blobs.path(digest), "its folder": blobs.path(digest).parent, "all blobs": run / "blobs"}[place]
    moved = tmp_path / "moved"
    path.rename(moved)
    strange(path, moved)
    with pytest.raises(LedgerError):
        blobs.get(digest)


def test_a_blob_of_endless_size_is_not_read_to_its_end(run: Path) -> None:
    blobs = Blobs(run / "blobs")
    digest = blobs.put(b"x")
    os.truncate(blobs.path(digest), 2**40)
    with pytest.raises(LedgerError, match=r"has more than the 67,108,864 bytes that a run writes there"):
        blobs.get(digest)


GOOD = hashlib.sha256(b"1\n").hexdigest()
LISTINGS = {
    "a path out of the tree": f"../harness.py\0{GOOD}\n",
    "a whole path": f"/tmp/harness.py\0{GOOD}\n",
    "a device as a blob": "harness.py\0/dev/zero\n",
    "a blob by a path": f"harness.py\0../../{GOOD}\n",
    "a line of three": f"harness.py\0{GOOD}\0{GOOD}\n",
    "a line of one": "harness.py\n",
    "more files than a harness holds": "".join(f"{number}.py\0{GOOD}\n" for number in range(501)),
}


@pytest.mark.parametrize("what", LISTINGS)
def test_a_listing_that_is_none_of_a_harness_is_refused(run: Path, what: str) -> None:
    blobs = Blobs(run / "blobs")
    blobs.put(b"1\n")
    digest = blobs.put(LISTINGS[what].encode())
    for take in (Trees(run).get, partial(harness_folder, run)):
        with pytest.raises(LedgerError):
            take(digest)
    assert not list(run.rglob("*.py"))


def test_a_listing_of_many_large_files_is_refused_before_they_fill_the_memory(run: Path) -> None:
    blobs = Blobs(run / "blobs")
    large = blobs.put(bytes(MAX_BYTES // 4))
    digest = blobs.put("".join(f"{number}.py\0{large}\n" for number in range(400)).encode())
    with pytest.raises(LedgerError, match="lists more than the 8,388,608 bytes of a harness"):
        Trees(run).get(digest)


def planted_link(folder: Path, outside: Path) -> None:
    folder.symlink_to(outside)


def other_content(folder: Path, outside: Path) -> None:
    shutil.copytree(outside, folder)
    (folder / "harness.py").write_text("def solve(instance, ctx): return 2\n")


def a_file_more(folder: Path, outside: Path) -> None:
    shutil.copytree(outside, folder)
    (folder / "src" / "json.py").write_text("")


def a_file_less(folder: Path, outside: Path) -> None:
    shutil.copytree(outside, folder)
    (folder / "harness.py").unlink()


def a_file_as_link(folder: Path, outside: Path) -> None:
    shutil.copytree(outside, folder)
    (folder / "harness.py").unlink()
    (folder / "harness.py").symlink_to(outside / "harness.py")


def a_folder_as_link(folder: Path, outside: Path) -> None:
    shutil.copytree(outside, folder)
    shutil.rmtree(folder / "src")
    (folder / "src").symlink_to(outside / "src")


def a_file(folder: Path, outside: Path) -> None:
    folder.write_text("")


PLANTED = (planted_link, other_content, a_file_more, a_file_less, a_file_as_link, a_folder_as_link, a_file)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda each: each.__name__)
def test_a_folder_of_a_harness_is_run_from_only_if_it_is_what_its_name_says(
    run: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    TREE.write_to(tmp_path / "outside")
    trees = Trees(run)
    digest = trees.put(TREE)
    (run / "trees").mkdir()
    plant(run / "trees" / digest, tmp_path / "outside")
    with pytest.raises(LedgerError):
        harness_folder(run, digest)
    path = run / "trees" / digest
    path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    folder = harness_folder(run, digest)
    assert HarnessTree.from_folder(folder).digest == digest
    assert harness_folder(run, digest) == folder


@pytest.mark.parametrize("place", ["adapters", "the snapshot", "a file in it"])
def test_a_snapshot_with_a_link_in_it_is_neither_loaded_nor_exported(run: Path, tmp_path: Path, place: str) -> None:
    name, outside = "a" * 64, tmp_path / "outside" / ("a" * 64)
    outside.mkdir(parents=True)
    (outside / "weights").write_text("1")
    if place == "adapters":
        (run / "adapters").symlink_to(outside.parent)
    else:
        (run / "adapters").mkdir()
        if place == "the snapshot":
            (run / "adapters" / name).symlink_to(outside)
        else:
            (run / "adapters" / name).mkdir()
            (run / "adapters" / name / "weights").symlink_to(outside / "weights")
    with pytest.raises(LedgerError, match="is a link"):
        adapter_folder(run, name)


def test_a_snapshot_that_a_record_says_was_replaced_is_removed_from_the_runs_own_folder_alone(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").write_text("kept")
    with Ledger.open(run) as ledger:
        lever = WeightLever()
        lever.run = SimpleNamespace(ledger=ledger)  # type: ignore[assignment]
        for name in ("../../../victim", str(tmp_path / "victim")):
            with pytest.raises(LedgerError, match="where the digest of a content must stand"):
                lever._drop(name, ())
    assert (tmp_path / "victim" / "kept").read_text() == "kept"


# What is exported


REQUIRES = [
    "--index-url http://evil",
    "x @ https://evil/x.whl",
    "git+https://evil/x",
    "x\n--index-url http://evil",
    "-r y",
]


@pytest.mark.parametrize("requires", REQUIRES)
def test_a_harness_does_not_say_where_pip_installs_from(requires: str) -> None:
    with pytest.raises(HarnessError, match="the agent requires"):
        pinned([requires])


def test_what_a_harness_requires_is_pinned() -> None:
    assert pinned(["pytest>=7", "no-such-distribution"]) == [f"pytest=={pytest.__version__}", "no-such-distribution"]


# The commands


@pytest.mark.real
def test_no_command_that_reads_runs_waits_for_or_writes_to_what_is_none(run: Path, victim: Path) -> None:
    for number, strange in enumerate((as_pipe, as_zero, as_link)):
        (run.parent / f"bad-{number}").mkdir()
        strange(run.parent / f"bad-{number}" / "ledger.db", victim)
    name_super_journal(Path(shutil.copytree(run, run.parent / "bad-3")), victim)
    result = subprocess.run(
        [sys.executable, "-m", "sia_cli", "runs", "--json", "--runs-dir", str(run.parent)],
        capture_output=True,
        check=True,
    )
    status = {row["run"]: row["status"] for row in json.loads(result.stdout)}
    assert status == {**{f"bad-{number}": "unreadable" for number in range(4)}, "run-1": "unfinished"}
    assert victim.read_text() == "precious"


def test_a_statement_that_never_ends_is_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STEPS", 3)
    with Ledger.read(run) as ledger, pytest.raises(SiaError, match="interrupted"):
        ledger._rows(f"{ENDLESS} SELECT count(*) FROM n")


@pytest.mark.parametrize("command", [["resume"], ["resume", "--json"], ["report", "--html", "page.html"]], ids=" ".join)
@pytest.mark.parametrize(
    "broken", [{"draft": ["x"]}, {"finished": {"spent": {"tokens": "x"}, "reason": "x"}}], ids=canonical
)
def test_a_finished_run_of_another_shape_is_shown_or_refused_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], broken: dict[str, Any]
) -> None:
    if "--html" in command:
        pytest.importorskip("sia_dashboard")
    monkeypatch.chdir(tmp_path)
    about = {"task": "t", "kind": "solve", "metric": {"name": "m", "direction": "maximize"}}
    config = asdict(Config(OfferRef("lawbench", {"seed": 0})))
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.record("run", {"config": config, **about, "fingerprint": "f", "version": __version__})
        ledger.record("sandbox", {"name": "bwrap", "lacks": []})
        for key, value in {"draft": "a" * 64, "finished": {"spent": {}, "reason": "x"}, **broken}.items():
            ledger.record(key, value)
    assert main([*command[:1], "run", "--runs-dir", ".", *command[1:]]) in (0, 2)


def test_a_folder_that_is_too_deep_to_be_walked_through_is_refused_and_can_be_removed(run: Path) -> None:
    place = os.getcwd()
    (run / "unfinished").mkdir()
    os.chdir(run / "unfinished")
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(place)
    with pytest.raises(LedgerError, match="lies deeper than any folder of a run"):
        Ledger.open(run)
    assert main(["rm", "--yes", str(run), "--runs-dir", "."]) == 0
    assert not run.exists()


class Idle:
    """A backend on which nothing runs: a run gets no further than its records."""

    slots = 1

    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        if job.function.endswith(":recheck"):
            future.set_result(None)
        else:
            future.set_exception(SiaError("nothing runs here"))
        return future

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sandbox", ["a", "b"]),
        ("draft/seconds", "x"),
        ("generation/0/decide", [{"lever": 2**63}]),
        ("generation/0/gated/0", []),
        ("rollouts/search/bb2c202ca045/0000", {"rollouts": [{"outcome": ["ok"]}]}),
    ],
)
def test_an_unfinished_run_of_another_shape_is_refused_at_resume_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    monkeypatch.setattr(start, "backend_of", lambda *_: Idle())
    monkeypatch.setattr(start, "confirm", lambda *_: None)
    with Ledger.read(golden_runs.restore("sums", tmp_path / "golden")) as golden:
        events = {key: value for key, value, _ in golden.events()}
    shutil.copytree(tmp_path / "golden" / "blobs", tmp_path / "run" / "blobs")
    keep_secret(tmp_path / "run" / SECRET, new_secret())
    events["run"] |= {"version": __version__}
    events["run"]["config"]["plan"]["earned"] = 0.1
    with Ledger.create(tmp_path / "run") as ledger:
        for each, recorded in events.items():
            if each != "finished":
                ledger.record(each, value if each == key else recorded)
    with pytest.raises(LedgerError, match=r"cannot make sense of its records|which no run records"):
        start.resume(tmp_path / "run", Plugins.discover(), [])


class Drawn(BaseModel):
    size: int = Field(le=10)


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ({}, {"answer": '{"size": 1}'}),
        ({"evaluations": 1, "artefact": dict}, {"answer": '{"size": 1000000}'}),
        ({"evaluations": 1, "artefact": dict}, {"answer": "{"}),
        ({"evaluations": 1, "artefact": dict}, {"answer": 1}),
        ({"evaluations": 1, "artefact": dict}, []),
    ],
    ids=["of a task that has none", "too large", "no JSON", "no text", "none"],
)
def test_no_file_is_made_of_a_best_answer_that_no_run_can_have(more: dict[str, Any], answer: Any) -> None:
    with pytest.raises(LedgerError, match="the record holds"):
        made_of(cast(Task, SimpleNamespace(name="t", answer=Drawn, **more)), answer)


def test_a_file_that_may_not_be_written_is_named_by_its_whole_path(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the refusal is the system's in its place."""
    real = os.open

    def refused(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "lock":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(LedgerError, match=f"^{run}/lock: Permission denied"):
        Ledger.open(run)
