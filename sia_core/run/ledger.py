"""The durable record of a run: every step once, in order, and blobs by digest.

A step's result is committed in one transaction before anything acts on it, so a
run that is killed anywhere goes on from its last finished step. The events form
a hash chain, so a damaged record is noticed and never silently used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sia_core.errors import LedgerError

FORMAT = 1
"""Of the run's folder. A folder with a higher one was written by a newer sia-core."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL,
    chain TEXT NOT NULL, at REAL NOT NULL
) STRICT;
"""


def canonical(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # Half of a surrogate pair cannot be stored as it is; its JSON escape is spelt like Python's.
    return text.encode(errors="backslashreplace").decode()


UNFINISHED = "unfinished"
"""The folder of a run in which blobs and trees are made. What a kill leaves there goes when the run is gone on with."""


class Blobs:
    """Files by the SHA-256 of their content. Writing one that is there costs next to nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.Lock()
        self._synced: set[Path] = set()

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

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
        try:
            content = self.path(digest).read_bytes()
        except OSError as error:
            raise LedgerError(f"{self.path(digest)}: {error.strerror}; the run's folder is incomplete") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise LedgerError(f"{self.path(digest)} is damaged: its content is not what its name says")
        return content


class Ledger:
    """The steps of one run. One process writes; others may read meanwhile (``Ledger.read``)."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self.folder, self.readonly = folder, readonly
        self.blobs = Blobs(folder / "blobs")
        self._mutex = threading.Lock()
        self._lock = None if readonly else _lock_folder(folder)
        try:
            if not readonly:
                shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            self._db = self._connect(readonly)
        except BaseException:
            self._unlock()
            raise
        try:
            self._prepare(readonly)
            self._chain = self._verify()
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
        with self._mutex, explained(self.folder):
            row = self._db.execute("SELECT value FROM events WHERE key = ?", (key,)).fetchone()
        return (json.loads(row[0]),) if row else None

    def record(self, key: str, value: Any) -> Any:
        """Commit the result of a step; returns it as a later ``get`` will."""
        try:
            text = canonical(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise LedgerError(f"step {key!r} gave what is not JSON: {error}. Nothing was recorded for it.") from error
        with self._mutex, explained(self.folder):
            chain = _link(self._chain, key, text)
            with self._db:
                self._db.execute(
                    "INSERT INTO events (key, value, chain, at) VALUES (?, ?, ?, ?)", (key, text, chain, time.time())
                )
            self._chain = chain
        return json.loads(text)

    def events(self, prefix: str = "") -> Iterator[tuple[str, Any, float]]:
        """(key, value, time) of the finished steps whose key starts with ``prefix``, in order."""
        with self._mutex, explained(self.folder):
            rows = self._db.execute(
                "SELECT key, value, at FROM events WHERE substr(key, 1, ?) = ? ORDER BY seq", (len(prefix), prefix)
            ).fetchall()
        return ((key, json.loads(value), at) for key, value, at in rows)

    def since(self, after: int = 0) -> list[tuple[int, str]]:
        """Number and key of the finished steps past number ``after``, in order: what a reader has not seen yet."""
        with self._mutex, explained(self.folder):
            return self._db.execute("SELECT seq, key FROM events WHERE seq > ? ORDER BY seq", (after,)).fetchall()

    def close(self) -> None:
        with self._mutex:
            self._db.close()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, readonly: bool) -> sqlite3.Connection:
        path = self.folder / "ledger.db"
        with explained(self.folder):
            uri = f"{path.resolve().as_uri()}?mode="
            if readonly and path.with_name("ledger.db-journal").exists():
                # Of a writer that was killed before the file was in WAL mode; to undo what it began is to write.
                with suppress(sqlite3.Error), closing(sqlite3.connect(f"{uri}rw", uri=True)) as db:
                    db.execute("PRAGMA user_version").fetchone()
            uri += "ro" if readonly else "rwc"
            if readonly and not os.access(self.folder, os.W_OK) and not path.with_name("ledger.db-wal").exists():
                uri += "&immutable=1"  # to read in WAL mode is to write beside it, which this folder does not allow
            return sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30.0)

    def _prepare(self, readonly: bool) -> None:
        with explained(self.folder):
            written = self._db.execute("PRAGMA user_version").fetchone()[0]
            if written > FORMAT:
                raise LedgerError(
                    f"{self.folder} was written by a newer sia-core (format {written}; this one knows {FORMAT}). "
                    "Upgrade with `pip install -U sia-core`."
                )
            if not readonly:
                # A file system without shared memory (NFS) answers with another mode, which is as durable.
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            if not written:
                self._found(readonly)

    def _found(self, readonly: bool) -> None:
        """Make the table; for a reader of a run that was stopped before it had one, in memory."""
        if readonly:
            self._db.close()
            self._db = sqlite3.connect(":memory:", check_same_thread=False)
        with self._db:
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={FORMAT}")

    def _verify(self) -> str:
        chain = ""
        with explained(self.folder):
            for seq, key, text, link in self._db.execute("SELECT seq, key, value, chain FROM events ORDER BY seq"):
                chain = _link(chain, key, text)
                if chain != link:
                    raise LedgerError(
                        f"{self.folder / 'ledger.db'} is damaged at step {seq} ({key}). "
                        "Restore the folder from a copy; nothing was changed."
                    )
        return chain

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def started_at(folder: Path) -> float:
    """When the first step of a run was recorded, in seconds since 1970; 0 where that cannot be read."""
    try:
        with closing(sqlite3.connect(f"{(folder / 'ledger.db').resolve().as_uri()}?mode=ro", uri=True)) as db:
            row = db.execute("SELECT at FROM events ORDER BY seq LIMIT 1").fetchone()
    except sqlite3.Error:
        return 0.0
    return float(row[0]) if row else 0.0


def _link(previous: str, key: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{key}\n{text}".encode()).hexdigest()


def _require(folder: Path) -> None:
    if not (folder / "ledger.db").is_file():
        raise LedgerError(f"{folder} holds no run (no ledger.db in it); `sia runs` lists the runs that are there")


def _lock_folder(folder: Path) -> int:
    path = folder / "lock"
    with explained(folder):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
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
        if "full" in str(error):
            raise LedgerError(_full(folder)) from error
        raise LedgerError(f"{folder / 'ledger.db'} cannot be used: {error}. Nothing was changed.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LedgerError(_full(folder)) from error
        raise LedgerError(f"{error.filename or folder}: {error.strerror}") from error


def _full(folder: Path) -> str:
    return (
        f"the disk is full at {folder}; what was finished is kept. "
        f"Free some space, then go on with `sia resume {folder.name}`."
    )
