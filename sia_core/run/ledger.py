"""The durable record of a run: every step once, in order, and blobs by digest.

A step's result is committed in one transaction before anything acts on it, so a run that is killed anywhere goes on
from its last finished step. The events form a hash chain, so a damaged record is noticed and never silently used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sia_core.errors import LedgerError
from sia_core.run import beneath, database

FORMAT = 1
"""Of the run's folder. A folder with a higher one was written by a newer sia-core."""


def canonical(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # Half of a surrogate pair cannot be stored as it is; its JSON escape is spelt like Python's.
    return text.encode(errors="backslashreplace").decode()


LOCK = "lock"
UNFINISHED = "unfinished"
"""The folder of a run in which blobs and trees are made. What a kill leaves is removed when the run is resumed."""

MOST_BLOB = 2**26
"""Bytes of a blob: the files of a harness, which are smaller by far."""


class Blobs:
    """Files by the SHA-256 of their content. Writing one that is there costs next to nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.Lock()
        self._synced: set[Path] = set()

    def path(self, digest: str) -> Path:
        """Where a blob lies; LedgerError where this is not the name of one."""
        return self.folder / beneath.digest(digest)[:2] / digest

    def put(self, content: bytes) -> str:
        """Store a blob durably: temporary file, sync, rename, sync of the folders."""
        digest = hashlib.sha256(content).hexdigest()
        target = self.path(digest)
        with self._mutex, explained(self.folder.parent):
            if not target.exists():
                self._write(target, content)
            self._sync(target.parent, self.folder, self.folder.parent)
        return digest

    def _write(self, target: Path, content: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder.with_name(UNFINISHED)
        unfinished.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=unfinished)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)  # a sandbox reads them as another user
                os.fsync(file.fileno())
            self._synced -= {target.parent, self.folder}
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def _sync(self, *folders: Path) -> None:
        """Make the names in these folders durable, also those whose writer was stopped before it could."""
        for folder in folders:
            if folder not in self._synced:
                sync_folder(folder)
                self._synced.add(folder)

    def get(self, digest: str) -> bytes:
        """Read a blob; LedgerError where it is missing or is not what its name says."""
        path = self.path(digest)
        try:
            content = beneath.read_plain(self.folder.parent, self.folder.name, path.parent.name, digest, most=MOST_BLOB)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}; the run's folder is incomplete: copy it again") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise LedgerError(f"{path} is damaged: its content is not what its name says; copy it again")
        return content


class Ledger:
    """The steps of one run. One process writes; others may read meanwhile (``Ledger.read``)."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self.folder, self.readonly = folder, readonly
        self.blobs = Blobs(folder / "blobs")
        self._mutex = threading.Lock()
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._reader = database.Reader(folder) if readonly else None
        self._has_table, self._next, self._chain = False, 1, ""
        try:
            if self._reader:
                self._rows("SELECT 1")
            else:
                self._begin()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Start the record of a new run in a folder that holds none."""
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run to go on with it; LedgerError where there is none, or another process is on it."""
        _require(folder)
        return cls(folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open a run to look at it, also while another process is on it."""
        _require(folder)
        return cls(folder, readonly=True)

    def step(self, key: str, work: Callable[[], Any]) -> Any:
        """The recorded result of ``key``; or run ``work`` and record its JSON result in one transaction."""
        recorded = self.get(key)
        return self.record(key, work()) if recorded is None else recorded[0]

    def get(self, key: str) -> tuple[Any] | None:
        """The result of a finished step in a tuple of one, or None."""
        rows = self._rows("SELECT value FROM events WHERE key = ?", (key,))
        return (self._value(key, rows[0][0]),) if rows else None

    def record(self, key: str, value: Any) -> Any:
        """Commit the result of a step; returns it as a later ``get`` will."""
        try:
            text = canonical(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise LedgerError(f"step {key!r} gave what is not JSON: {error}. Nothing was recorded for it.") from error
        with self._mutex, explained(self.folder):
            if self._db is None:
                raise LedgerError(f"{self.folder} was opened readonly, so step {key!r} cannot be recorded")
            chain = _link(self._chain, key, text)
            with self._db:
                self._db.execute(
                    "INSERT INTO events (key, value, chain, at) VALUES (?, ?, ?, ?)", (key, text, chain, time.time())
                )
            self._chain = chain
        return json.loads(text)

    def events(self, prefix: str = "") -> Iterator[tuple[str, Any, float]]:
        """(key, value, time) of the finished steps whose key starts with ``prefix``, in order."""
        rows = self._rows(
            "SELECT key, value, at FROM events WHERE substr(key, 1, ?) = ? ORDER BY seq", (len(prefix), prefix)
        )
        return ((key, self._value(key, value), at) for key, value, at in rows)

    def since(self, after: int = 0) -> list[tuple[int, str]]:
        """Number and key of the finished steps past number ``after``, in order: what a reader has not seen yet."""
        return self._rows("SELECT seq, key FROM events WHERE seq > ? ORDER BY seq", (after,))

    def close(self) -> None:
        """Close the database, and let other processes write to the run."""
        with self._mutex:
            for each in (self._reader, self._db):
                if each is not None:
                    each.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Take the folder to write in it, and look at all of it first: nothing is written through a link."""
        self._lock = _lock_folder(self.folder)
        with explained(self.folder):
            beneath.check_below(self.folder)
            database.check_beside(self.folder)
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
            self._db, self._patience = database.connect(self.folder / database.NAME, "rwc")
            self._check(self._db)
            # A file system without shared memory (NFS) answers with another mode, which is as durable.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if not self._has_table:
                with self._db:
                    self._db.execute(database.TABLE)
            if not self._db.execute("PRAGMA user_version").fetchone()[0]:
                self._db.execute(f"PRAGMA user_version={FORMAT}")
            self._verify(self._db)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query on the record as it is now; none before it has its table."""

        def look(db: sqlite3.Connection, fresh: bool) -> list[Any]:
            if fresh:
                self._check(db)
                if self._has_table:
                    self._verify(db)
            return db.execute(query, values).fetchall() if self._has_table else []

        with self._mutex, explained(self.folder):
            if self._reader:
                return self._reader.read(look)
            assert self._db
            self._patience.remaining = database.STEPS
            return self._db.execute(query, values).fetchall()

    def _check(self, db: sqlite3.Connection) -> None:
        """That this is a record, of a version that we know."""
        written = db.execute("PRAGMA user_version").fetchone()[0]
        if written > FORMAT:
            raise LedgerError(
                f"{self.folder} was written by a newer sia-core (format {written}; this one knows {FORMAT}). "
                "Upgrade with `pip install -U sia-core`."
            )
        self._has_table = database.check_schema(db, self.folder / database.NAME)
        if written and not self._has_table:
            raise LedgerError(f"{self.folder / database.NAME} has lost its table; restore the folder from a copy")

    def _verify(self, db: sqlite3.Connection) -> None:
        """Each row is of the right types, and the next link of the chain; of a reader's, what is new since."""
        last = db.execute("SELECT chain FROM events WHERE seq = ?", (self._next - 1,)).fetchone()
        if self._next == 1 or last != (self._chain,):
            self._next, self._chain = -(2**63), ""
        rows = db.execute("SELECT seq, key, value, chain, at FROM events WHERE seq >= ? ORDER BY seq", (self._next,))
        for seq, key, text, link, at in rows:
            typed = [type(each) for each in (key, text, link, at)] == [str, str, str, float]
            begun = self._chain if self._next > 0 else ""
            if not (typed and _link(begun, key, text) == link and 0 < seq < 2**53 and math.isfinite(at)):
                raise LedgerError(
                    f"{self.folder / database.NAME} is damaged at step {seq} ({str(key)[:80]}). "
                    "Restore the folder from a copy; nothing was changed."
                )
            self._next, self._chain = seq + 1, link
        self._next = max(self._next, 1)

    def _value(self, key: str, text: str) -> Any:
        """A recorded result; LedgerError by its step where it is none that a run can have recorded."""
        try:
            return json.loads(text, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise LedgerError(
                f"{self.folder / database.NAME}: what is recorded for step {key[:80]!r} is not JSON: {error}"
            ) from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no number of JSON")
    return number


def is_run(folder: Path) -> bool:
    """Whether a folder holds the record of a run, readable or not."""
    return os.path.lexists(folder / database.NAME)


def _link(previous: str, key: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{key}\n{text}".encode()).hexdigest()


def _require(folder: Path) -> None:
    if not is_run(folder):
        raise LedgerError(f"{folder} holds no run (no ledger.db in it); `sia runs` lists the runs that are there")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from working on a run; LedgerError where one does."""
    handle = _lock_folder(folder)
    try:
        yield
    finally:
        os.close(handle)


def _lock_folder(folder: Path) -> int:
    with explained(folder):
        handle = beneath.open_plain(folder, LOCK, write=True)
        try:
            if os.fstat(handle).st_nlink > 1:
                raise LedgerError(f"{folder / LOCK} has another name elsewhere (a hard link); remove it, and go on")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"pid {os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            by = f" ({owner})" if owner else ""
            raise LedgerError(f"{folder}: another process{by} is on this run; wait for it, or stop it") from None
        except BaseException:
            os.close(handle)
            raise
    return handle


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what a disk or SQLite can do to us into errors that say what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        why = f"cannot be used: {error}. Nothing was changed; restore it from a copy, or see who may use it"
        raise LedgerError(_full(folder) if "full" in str(error) else f"{folder / 'ledger.db'} {why}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LedgerError(_full(folder)) from error
        raise LedgerError(f"{error.filename or folder}: {error.strerror}") from error


@contextmanager
def readable(folder: Path, ledger: Ledger | None = None) -> Iterator[None]:
    """Turn what records of another shape lead to into an error that names their run, till ``ledger`` has a new step."""
    steps = len(ledger.since()) if ledger else 0
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        if ledger and len(ledger.since()) > steps:
            raise
        raise LedgerError(
            f"{folder}: this version cannot make sense of its records: {type(error).__name__}: {error}"
        ) from error


def _full(folder: Path) -> str:
    return (
        f"the disk is full at {folder}; what was finished is kept. "
        f"Free some space, then go on with `sia resume {folder.name}`."
    )
