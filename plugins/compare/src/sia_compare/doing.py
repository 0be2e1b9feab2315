"""Doing the runs of a comparison, several at once, each by the command line in a process of its own."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sia_core.comparison.arms import Cell, Design
from sia_core.errors import LedgerError, UsageError
from sia_core.ledger import Ledger
from sia_core.report import recorded

LOGS = "logs"

Tell = Callable[[Cell, str], None]


class Doing:
    """Runs what is not finished. ``tell`` hears of each run's begin and end."""

    def __init__(self, folder: Path, design: Design, tell: Tell) -> None:
        self._folder, self._design, self._tell = folder, design, tell
        self._mutex = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def all(self, jobs: int) -> list[Cell]:
        """Do them, ``jobs`` at once; returns those that failed. What was begun is gone on with."""
        cells = [cell for cell in self._design.cells() if not finished(self._folder / cell.name)]
        with _alone(self._folder), ThreadPoolExecutor(max(1, jobs), thread_name_prefix="sia-cell") as threads:
            try:
                done = list(threads.map(self._do, cells))
            except BaseException:
                self._stop()
                raise
        return [cell for cell, well in zip(cells, done, strict=True) if not well]

    def _do(self, cell: Cell) -> bool:
        run, logs = self._folder / cell.name, self._folder / LOGS
        logs.mkdir(exist_ok=True)
        if begun(run):
            command = ["resume", cell.name]
        else:
            shutil.rmtree(run, ignore_errors=True)  # it was stopped before its first step
            command = ["run", *self._design.command(cell)]
        argv = [sys.executable, "-m", "sia_core", *command, "--runs-dir", str(self._folder)]
        with (logs / f"{cell.name}.txt").open("ab") as log:
            with self._mutex:
                if self._stopped:
                    return False
                # A session of its own: Ctrl-C is for us, and we hand it on once.
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
                self._running.add(process)
            self._tell(cell, "goes on" if command[0] == "resume" else "begins")
            code = process.wait()
        with self._mutex:
            self._running.discard(process)
        well = code == 0 and finished(run)
        self._tell(
            cell, "is finished" if well else f"failed with exit code {code}; {logs / f'{cell.name}.txt'} says why"
        )
        return well

    def _stop(self) -> None:
        """Have what runs stop as by Ctrl-C: what it finished is kept."""
        with self._mutex:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the comparison: a run that another process has only just begun would look as if it had never been."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is on this comparison; wait for it, or stop it") from None
        yield


def begun(run: Path) -> bool:
    """Whether a run has its first step, so that it can be gone on with."""
    return _has(run, "run")


def finished(run: Path) -> bool:
    """Whether a run is finished."""
    return _has(run, "finished")


def _has(run: Path, key: str) -> bool:
    try:
        with Ledger.read(run) as ledger:
            return recorded(ledger, key) is not None
    except LedgerError:
        return False
