"""Doing the runs of a comparison, several at once, each by the command line in its own process."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sia_compare.arms import Cell, Design
from sia_core.errors import LedgerError, UsageError
from sia_core.run.beneath import check_folder, open_plain
from sia_core.run.ledger import Ledger, is_run
from sia_core.run.record import FINISHED
from sia_core.run.rollouts import new_secret
from sia_core.run.secret import keep_secret

LOGS, SECRETS = "logs", "secrets"

Tell = Callable[[Cell, str], None]


class Doing:
    """Runs what is not finished. ``tell`` hears of each run's begin and end."""

    def __init__(self, folder: Path, design: Design, tell: Tell) -> None:
        self._folder, self._design, self._tell = folder, design, tell
        self._mutex = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def all(self, jobs: int) -> list[Cell]:
        """Do them, ``jobs`` at once; returns those that failed. Runs that were stopped are resumed."""
        cells = self.unfinished()
        with _alone(self._folder), ThreadPoolExecutor(max(1, jobs), thread_name_prefix="sia-cell") as threads:
            try:
                successes = list(threads.map(self._do, cells))
            except BaseException:
                self._stop()
                raise
        return [cell for cell, well in zip(cells, successes, strict=True) if not well]

    def unfinished(self) -> list[Cell]:
        """The runs that are left to do."""
        return [cell for cell in self._design.cells() if not finished(self._folder / cell.name)]

    def _do(self, cell: Cell) -> bool:
        run, logs = self._folder / cell.name, self._folder / LOGS
        logs.mkdir(exist_ok=True)
        if begun(run):
            command = ["resume", cell.name]
        else:
            shutil.rmtree(run, ignore_errors=True)  # it was stopped before its first step
            command = ["run", *self._design.command(cell), "--secret", str(self.secret_of(cell))]
        argv = [sys.executable, "-P", "-m", "sia_cli", *command, "--runs-dir", str(self._folder)]
        with os.fdopen(open_plain(self._folder, LOGS, f"{cell.name}.txt", write=True), "ab") as log:
            with self._mutex:
                if self._stopped:
                    return False
                # A separate session: Ctrl-C is for us, and we hand it on once.
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
                self._running.add(process)
            self._tell(cell, "goes on" if command[0] == "resume" else "begins")
            code = process.wait()
        with self._mutex:
            self._running.discard(process)
        well = code == 0 and finished(run)
        if well:
            self._tell(cell, "is finished")
        elif code == -signal.SIGKILL:
            self._tell(cell, "was killed, as a system does that runs out of memory: try again with --jobs 1")
        else:
            self._tell(cell, f"failed with exit code {code}; {logs / f'{cell.name}.txt'} says why")
        return well

    def secret_of(self, cell: Cell) -> Path:
        """The file of the secret that the arms of a seed share, so that their verifiers draw the same."""
        path = self._folder / SECRETS / str(cell.seed)
        with self._mutex:
            if not path.exists():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                check_folder(path.parent)
                keep_secret(path, new_secret())
        return path

    def _stop(self) -> None:
        """Have what runs stop as by Ctrl-C, which it may ignore as we do: what it finished is kept."""
        with self._mutex:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the comparison: a run that another process has only just begun would look as if it had never been."""
    with os.fdopen(open_plain(folder, "lock", write=True), "r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is on this comparison; wait for it, or stop it") from None
        yield


def begun(run: Path) -> bool:
    """Whether a run has its first step, or a record that cannot be read: to go on with it says why."""
    try:
        return is_run(run) and _has(run, "run")
    except LedgerError:
        return True


def finished(run: Path) -> bool:
    """Whether a run is finished."""
    try:
        return _has(run, FINISHED)
    except LedgerError:
        return False


def _has(run: Path, key: str) -> bool:
    with Ledger.read(run) as ledger:
        return ledger.get(key) is not None
