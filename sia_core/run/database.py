"""A run's record as SQLite is given it, which may have been made by somebody else to do harm.

SQLite acts on what lies beside a database: a journal that it finds is played back, and may name
another file to delete. So whoever reads has SQLite open a file that it takes for unchangeable: the
record as it lies there, or a private copy where a log beside it has to be taken in first.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from sia_core.errors import LedgerError
from sia_core.run.beneath import open_plain

NAME, WAL, JOURNAL, SHARED = "ledger.db", "ledger.db-wal", "ledger.db-journal", "ledger.db-shm"
TABLE = (
    "CREATE TABLE events ( seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, "
    "chain TEXT NOT NULL, at REAL NOT NULL ) STRICT"
)
MOST_BYTES = 2**28
"""Of one recorded result."""

MOST_COPIED = 2**32
"""Bytes of a record that are copied to read it."""

TRIES = 100
STEP, STEPS = 100_000, 10_000
"""SQLite asks after this many of its instructions whether to go on, and may this often: some seconds in all."""

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEAD = 100

T = TypeVar("T")
Mark = tuple[tuple[int, int, int, bytes] | None, ...]


class Patience:
    """Ends a statement that takes far longer than any on a sound record."""

    def __init__(self) -> None:
        self.remaining = STEPS

    def __call__(self) -> bool:
        self.remaining -= 1
        return self.remaining < 0


def connect(path: Path, mode: str) -> tuple[sqlite3.Connection, Patience]:
    """A connection that takes nothing in the file on trust. Modes are those of SQLite's URIs."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False, timeout=30.0)
    try:
        patience = Patience()
        db.set_progress_handler(patience, STEP)
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
            db.execute(f"PRAGMA {setting}")
    except BaseException:
        db.close()
        raise
    return db, patience


def check_schema(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the record's table is there; LedgerError where anything else is: a view, a trigger, another column."""
    table = False
    for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master"):
        if (kind, name) == ("table", "events") and " ".join(str(sql).split()) == TABLE:
            table = True
        elif (kind, name, sql) != ("index", "sqlite_autoindex_events_1", None):
            raise LedgerError(
                f"{path} is not as SIA writes it: its {str(kind)[:20]} {str(name)[:80]!r} is none of a run's. "
                "Do not open it with other programs; restore the folder from a copy."
            )
    return table


def check_beside(folder: Path) -> None:
    """Refuse what must not lie beside a record that is going to be written, or written through."""
    for name in (NAME, WAL, JOURNAL, SHARED):
        with suppress(FileNotFoundError):
            handle = open_plain(folder, name)
            names = os.fstat(handle).st_nlink
            os.close(handle)
            if names > 1:
                raise LedgerError(
                    f"{folder / name} has another name elsewhere (a hard link), which would be written, too; "
                    "copy the folder, and go on with the copy"
                )
    check_journal(folder, folder)


def check_journal(folder: Path, of: Path) -> None:
    """Refuse a journal that names a super-journal, a file for SQLite to delete: a run has one database and none."""
    with suppress(FileNotFoundError), os.fdopen(open_plain(folder, JOURNAL), "rb") as file:
        if file.seek(0, os.SEEK_END) >= len(_MAGIC):
            file.seek(-len(_MAGIC), os.SEEK_END)
            if file.read() == _MAGIC:
                raise LedgerError(
                    f"{of / JOURNAL} names another file, for SQLite to delete; no run writes such a journal. "
                    "Do not open this folder with other programs."
                )


class Reader:
    """A read-only view of the record, which works while another process writes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / NAME
        self._descriptor: int | None = None
        self._mark: Mark | None = None
        self._log = b""
        self._copies: Path | None = None
        self._copied = self._closed = False
        self.db: sqlite3.Connection | None = None
        self._patience = Patience()

    def read(self, work: Callable[[sqlite3.Connection, bool], T]) -> T:
        """The result of ``work`` on the present record; ``work`` learns if the connection is new."""
        for _ in range(TRIES):
            try:
                if self._closed:
                    raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
                fresh = self._refresh()
                assert self.db
                self._patience.remaining = STEPS
                result = work(self.db, fresh)
            except (sqlite3.Error, LedgerError):
                moved = self._moved()
                self._mark = None  # whatever comes next looks at it anew
                if not moved:
                    raise
            else:
                if not self._moved():
                    return result
        raise LedgerError(f"{self._path} is being changed all the while; try again")

    def close(self) -> None:
        self._closed = True
        if self.db is not None:
            self.db.close()
        if self._copies is not None:
            shutil.rmtree(self._copies, ignore_errors=True)
            self._copies = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _refresh(self) -> bool:
        now = _look(self._folder)
        if now == self._mark:
            return False
        if self._descriptor is None:
            self._descriptor = open_plain(self._folder, NAME)  # so that no other file can have its number
        if now[0] and now[0][0] != os.fstat(self._descriptor).st_ino:
            raise LedgerError(f"{self._path} was replaced by another since it was opened; open the run anew")
        if self.db is not None:
            self.db.close()
        beside = [mark for mark in now[1:3] if mark is not None and mark[1]]
        self._copied = bool(beside)
        path = self._copy(now) if beside else self._path
        self.db, self._patience = connect(path, "ro&immutable=1")
        self._mark = now
        return True

    def _moved(self) -> bool:
        """Whether the file that is read has changed under us."""
        return not self._copied and self._mark is not None and _look(self._folder) != self._mark

    def _copy(self, now: Mark) -> Path:
        """The record with its log taken in, as a file of ours.

        A write-ahead log holds all that goes into the record until its first bytes change. So the record
        and a log that is read after it belong together if these bytes are still the same.
        """
        try:
            return self._merged(now)
        except OSError as error:
            raise LedgerError(
                f"{self._path} has to be copied to be read, and that failed: {error.strerror}; "
                f"TMPDIR may name another place than {tempfile.gettempdir()}"
            ) from None

    def _merged(self, now: Mark) -> Path:
        if self._copies is None:
            self._copies = Path(tempfile.mkdtemp(prefix="sia-read-"))
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        copy = self._copies / NAME
        for _ in range(TRIES):
            log = now[1][3] if now[1] and not now[2] else b""
            previous, self._log = self._log, b""
            try:
                for name in (WAL, JOURNAL):
                    (self._copies / name).unlink(missing_ok=True)
                for name, mark in ((NAME, log != previous or not log), (WAL, now[1]), (JOURNAL, now[2])):
                    if mark:
                        self._fetch(name)
                before, now = now, _look(self._folder)
            except FileNotFoundError:  # its writer has just closed it
                now = _look(self._folder)
                continue
            if now == before or (log and now[1] and now[1][3] == log and not now[2]):
                break
        else:
            raise LedgerError(f"{self._path} is being changed all the while; try again")
        check_journal(self._copies, self._folder)
        with closing(connect(copy, "rw")[0]) as db:
            db.execute("PRAGMA user_version").fetchone()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._log = log
        return copy

    def _fetch(self, name: str) -> None:
        assert self._copies
        with os.fdopen(open_plain(self._folder, name), "rb") as source, (self._copies / name).open("wb") as target:
            if os.fstat(source.fileno()).st_size > MOST_COPIED:
                raise LedgerError(f"{self._folder / name} has more than {MOST_COPIED:,} bytes, too many for a run")
            shutil.copyfileobj(source, target, 2**20)


def first_time(folder: Path) -> float:
    """When the first step of a run was recorded, in seconds since 1970; 0 where there is none, or it cannot be read."""

    def first(db: sqlite3.Connection, _: bool = True) -> float | None:
        row = check_schema(db, folder) and db.execute("SELECT at FROM events ORDER BY seq LIMIT 1").fetchone()
        return float(row[0]) if row and isinstance(row[0], float) else None

    with suppress(sqlite3.Error, LedgerError, OSError):
        _look(folder)
        with suppress(sqlite3.Error), closing(connect(folder / NAME, "ro&immutable=1")[0]) as db:
            if timestamp := first(db):
                return timestamp
        with closing(Reader(folder)) as reader:  # of a young run all is in the log beside it
            return reader.read(first) or 0.0
    return 0.0


def _look(folder: Path) -> Mark:
    """By what a change of the record shows: of each of its files the number, size, time and first bytes."""
    return tuple(_marked(folder, name) for name in (NAME, WAL, JOURNAL, SHARED))


def _marked(folder: Path, name: str) -> tuple[int, int, int, bytes] | None:
    try:
        handle = open_plain(folder, name)
    except FileNotFoundError:
        if name == NAME:
            raise
        return None
    try:
        about = os.fstat(handle)
        return about.st_ino, about.st_size, about.st_mtime_ns, os.pread(handle, _HEAD, 0)
    finally:
        os.close(handle)
