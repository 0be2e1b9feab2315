"""Stops a run at every file system call of its ledger in turn, or makes the call fail; then goes on with it.

What a run without faults calls is traced once. Each fault is one of these calls, by its
name and ordinal, into which ``strace`` puts SIGKILL or an error. Afterwards the run is
resumed, and compared with the one without faults.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from durability import workloads

from sia_core.errors import LedgerError
from sia_core.run.ledger import Ledger

MEMORY = "/dev/shm"
TRIES = 3
"""Runs in which a fault may come to its call."""

EARLIER = 8
"""Calls before it to which it may come instead."""

KILL = "SIGKILL"
CHANGING = ["openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "rmdir", "ftruncate", "mkdir"]
CHANGING += ["link", "fchmod", "chmod", "fchmodat", "fchown"]
"""The calls after which a disk, or what is safe on it, is another. Of ``openat`` those that may make a file."""

READING = ["read", "pread64"]
ERRORS = {
    "ENOSPC": ["openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "mkdir", "link", "ftruncate"],
    "EIO": [*CHANGING, *READING],
}
"""Errors of a full disk and a broken one, and the calls that may return them."""


@dataclass(frozen=True)
class Fault:
    """``how``, KILL or an error, at the ``nth`` call of this name."""

    call: str
    nth: int
    how: str

    @property
    def expression(self) -> str:
        what = f"signal={self.how}" if self.how == KILL else f"error={self.how}"
        return f"inject={self.call}:{what}:when={self.nth}"


@dataclass
class Tally:
    """Fault counts. All that follows ``injected`` should be zero; ``bad`` names the faults where it was not."""

    calls: int = 0
    injected: int = 0
    missed: int = 0
    lost: int = 0
    repeated: int = 0
    corrupt: int = 0
    different: int = 0
    unexplained: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, fault: Fault, outcome: Outcome) -> None:
        self.calls += 1
        self.injected += outcome.injected
        self.missed += not outcome.injected
        self.lost += outcome.lost
        self.repeated += outcome.repeated
        self.corrupt += bool(outcome.corrupt)
        self.different += bool(outcome.different)
        self.unexplained += bool(outcome.unexplained)
        # How often SQLite reads is not the same in every run; every other call has to come, and to be hit.
        if outcome != Outcome(outcome.injected or fault.call != "read"):
            self.bad.append(f"{fault}: {outcome}")


@dataclass(frozen=True)
class Outcome:
    """One fault's effects: finished steps that were lost, recorded work that was run again, and texts."""

    injected: bool
    lost: int = 0
    repeated: int = 0
    corrupt: str = ""
    different: str = ""
    unexplained: str = ""


class Bench:
    """Makes runs of one workload with and without faults, in its own folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        # In memory, if there is such a folder: what a process that is killed leaves is the same there, and sooner.
        self._folder = Path(tempfile.mkdtemp(prefix="sia-faults-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "durability.workloads"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self._numbers = itertools.count()
        self.whole, self.log, self.trace = self._traced(f"trace={','.join([*CHANGING, *READING])}")
        self.expected = state(self._run_of(self.whole), timed=name == "sums")

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        shutil.rmtree(self._folder)

    def faults(self) -> dict[str, list[Fault]]:
        """By kind of fault: one for every call on the run's folder that it may come to."""
        calls = list(self._calls())
        kinds = {KILL: CHANGING, **ERRORS}
        return {how: [Fault(call, nth, how) for call, nth in calls if call in names] for how, names in kinds.items()}

    def tally(self, faults: Iterable[Fault]) -> Tally:
        tally = Tally()
        for fault in faults:
            tally.add(fault, self.inject(fault))
        return tally

    def inject(self, fault: Fault) -> Outcome:
        """Run with the fault, then without; what came of it.

        Calls are counted by thread, and which of two threads makes one may depend on which is the faster. So a fault
        whose call did not come is tried again, and then at the calls before it; a run that it did not meet must come
        to the same all the same.
        """
        earlier = range(fault.nth - 1, max(fault.nth - 1 - EARLIER, 0), -1)
        for nth in (*[fault.nth] * TRIES, *earlier):
            tried = replace(fault, nth=nth)
            folder, log, trace = self._traced(f"trace={tried.call}", tried.expression)
            outcome = self._judged(folder, log, _hit(tried, folder, trace))
            if outcome != Outcome(injected=False):
                break
        return outcome

    def _judged(self, folder: Path, log: Path, injected: bool) -> Outcome:
        lines = log.read_text().splitlines() if log.exists() else []
        unexplained = " ".join(line for line in lines if line.startswith("failed "))
        finished = [line[5:] for line in lines if line.startswith("done ")]
        try:
            recorded = self._recorded(folder)
        except LedgerError as error:
            return Outcome(injected, corrupt=f"reading: {error}", unexplained=unexplained)
        lost = len(set(finished) - set(recorded))
        try:
            with workloads.watched(log):
                run = workloads.WORKLOADS[self.name](folder)
            outcome = state(run, timed=self.name == "sums")
        except LedgerError as error:
            return Outcome(injected, lost, corrupt=f"going on: {error}", unexplained=unexplained)
        again = [line[5:] for line in log.read_text().splitlines()[len(lines) :] if line.startswith("work ")]
        repeated = len(set(again) & set(recorded))
        different = "; ".join(f"{key}: {outcome[key]} and not {self.expected[key]}"[:300]
                              for key in outcome if outcome[key] != self.expected[key])  # fmt: skip
        shutil.rmtree(folder)
        return Outcome(injected, lost, repeated, "", different, unexplained)

    def _recorded(self, folder: Path) -> list[str]:
        """The steps that are recorded, read as one who only looks does."""
        run = self._run_of(folder)
        if not (run / "ledger.db").exists():
            return []
        with Ledger.read(run) as ledger:
            return [key for key, _, _ in ledger.events()]

    def _run_of(self, folder: Path) -> Path:
        """The run's folder: in ``sums`` the last one below."""
        runs = sorted(folder.glob("*-*")) if self.name == "sums" else []
        return runs[-1] if runs else folder

    def _traced(self, *expressions: str) -> tuple[Path, Path, str]:
        """Make a run under ``strace``: its folder, its log, and the trace."""
        number = next(self._numbers)
        folder, log, trace = (self._folder / f"{kind}-{number}" for kind in ("run", "log", "trace"))
        server = self._server
        assert server.stdin
        assert server.stdout
        server.stdin.write(f"{self.name} {folder} {log}\n".encode())
        pid = server.stdout.readline().strip().decode()
        argv = ["strace", "-p", pid, "-y", "-s", "0", "-o", str(trace), *(f"-e{each}" for each in expressions)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            attached = tracer.stderr.readline()
            assert "attached" in attached, attached
            server.stdin.write(b"go\n")
            server.stdout.readline()
            tracer.stderr.read()
        return folder, log, trace.read_text()

    def _calls(self) -> Iterator[tuple[str, int]]:
        """The calls on the run's folder: name and ordinal among all calls of that name."""
        count: dict[str, int] = {}
        for line in self.trace.splitlines():
            if match := re.match(r"(\w+)\(", line):
                call = match[1]
                count[call] = count.get(call, 0) + 1
                if str(self.whole) in line and not (call == "openat" and "O_CREAT" not in line):
                    yield call, count[call]


def _hit(fault: Fault, folder: Path, trace: str) -> bool:
    """Whether the fault came, and came to a call on the run's folder."""
    lines = [line for line in trace.splitlines() if line.startswith(f"{fault.call}(")]
    here = len(lines) >= fault.nth and str(folder) in lines[fault.nth - 1]
    return here and ("killed by SIGKILL" if fault.how == KILL else "(INJECTED)") in trace


def lost_by_a_power_cut(trace: str, run: Path) -> list[str]:
    """Paths that may not be on the disk at the moments when the record says that a step is done.

    A file's content is safe when the file was synced, and a name when its folder was,
    later. A step is done when the write-ahead log is synced.
    """
    dirty: set[str] = set()
    losses = []
    for line in trace.splitlines():
        call, _, rest = line.partition("(")
        paths = [path for path in re.findall(r'[<"](/[^>"]*)[>"]', rest) if path.startswith(str(run))]
        if not paths or "= -1" in line or ("/ledger.db" in line and call not in ("fsync", "fdatasync")):
            continue
        path = paths[-1]
        if call in ("fsync", "fdatasync"):
            if path.endswith("ledger.db-wal"):
                losses += sorted(each for each in dirty if "/blobs" in each)
            safe = {path, *(each for each in dirty if each.startswith("name ") and Path(each[5:]).parent == Path(path))}
            dirty -= safe
        elif call == "write":
            dirty.add(path)
        elif call == "rename":
            dirty = {each.replace(paths[0], path) for each in dirty} | {f"name {path}"}
        elif call == "mkdir":
            dirty.add(f"name {path}")
    return losses


def state(run: Path, *, timed: bool = False) -> dict[str, Any]:
    """All that a run came to: events with their chain, or, if it was ``timed``, without times; every file's content."""
    with Ledger.open(run) as ledger:
        rows = ledger._db.execute("SELECT key, value, chain FROM events ORDER BY seq").fetchall()
    files = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name not in ("lock", "ledger.db", "secret")  # each run has another secret
    }
    return {"events": [(key, _timeless(value)) if timed else (key, value, chain) for key, value, chain in rows],
            "files": files}  # fmt: skip


def _timeless(value: str) -> str:
    """A recorded result without its seconds and without the path of its run."""
    return re.sub(r'"seconds":[\d.e-]+', "", value)


COLUMNS = ("run", "fault", "calls", "injected", "missed", "lost", "repeated", "corrupt", "different", "unexplained")


def row(name: str, how: str, tally: Tally) -> str:
    """A line of the summary."""
    cells = (name, how, *astuple(tally)[:-1])
    return "  ".join(f"{cell!s:>{max(7, len(head))}}" for head, cell in zip(COLUMNS, cells, strict=True))


def heading() -> str:
    """Of the summary."""
    return "  ".join(f"{head:>7}" for head in COLUMNS)
