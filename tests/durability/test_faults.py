"""A run that is stopped, or whose disk fails, at every file system call in turn; torn writes, strangers, clocks."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from durability import faults, workloads

from sia_core.errors import LedgerError
from sia_core.run.ledger import Ledger

pytestmark = pytest.mark.real

traced = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The final state of the workload ``ledger`` without faults."""
    folder = tmp_path_factory.mktemp("expected")
    return faults.state(workloads.ledger(folder / "run"))


SOME = [("ledger", 29), ("loop", 97)]
ALL = [pytest.param("ledger", 1, marks=pytest.mark.slow), pytest.param("loop", 4, marks=pytest.mark.slow)]


@traced
@pytest.mark.parametrize(("name", "every"), [*SOME, *ALL])
def test_stopped_or_failing_at_a_call_and_gone_on_with_a_run_comes_to_the_same(name: str, every: int) -> None:
    with faults.Bench(name) as bench:
        for how, cases in bench.faults().items():
            tally = bench.tally(cases[::every])
            print(faults.heading(), faults.row(name, how, tally), sep="\n")
            assert tally.bad == []
            assert tally.calls == len(cases[::every]) > 0


@traced
@pytest.mark.slow
def test_a_real_run_that_is_killed_at_a_call_and_resumed_comes_to_the_same() -> None:
    with faults.Bench("sums") as bench:
        tally = bench.tally(bench.faults()[faults.KILL][::47])
        print(faults.heading(), faults.row("sums", faults.KILL, tally), sep="\n")
        assert tally.bad == []
        assert tally.missed == 0


@traced
def test_a_power_cut_takes_no_blob_that_a_recorded_step_names() -> None:
    with faults.Bench("ledger") as bench:
        assert faults.lost_by_a_power_cut(bench.trace, bench.whole) == []
        for what in (r"fsync\(\d+<.*/unfinished/", r"fsync\(\d+<.*/blobs/..>", r"fsync\(\d+<.*/blobs>"):
            missing = "\n".join(line for line in bench.trace.splitlines() if not re.match(what, line))
            assert faults.lost_by_a_power_cut(missing, bench.whole), f"{what} would not be missed"


# Full disks


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of this size at the folder; skips where this user cannot mount one."""
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [8, 40, 64, 100, 140, 200])
def test_on_a_disk_that_is_full_a_run_says_so_and_with_more_room_it_comes_to_the_same(
    tmp_path: Path, expected: dict[str, Any], kilobytes: int
) -> None:
    with workloads.watched(tmp_path / "log"), disk(tmp_path / "disk", kilobytes):
        with pytest.raises(LedgerError, match=r"the disk is full"):
            workloads.ledger(tmp_path / "disk" / "run")
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "disk")], check=True)
        count = len((tmp_path / "log").read_text().splitlines())
        assert faults.state(workloads.ledger(tmp_path / "disk" / "run")) == expected
    lines = (tmp_path / "log").read_text().splitlines()
    finished = {line[5:] for line in lines[:count] if line.startswith("done ")}
    assert not finished & {line[5:] for line in lines[count:] if line.startswith("work ")}


# Torn writes


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its last step: all of it is in the write-ahead log."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    program = "import os, sys; from pathlib import Path; from durability import workloads\n"
    program += "workloads.Ledger.close = lambda self: os._exit(0)\nworkloads.ledger(Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
    return folder


FRAME = 4096 + 24


def torn() -> list[tuple[str, int, bytes | None]]:
    """(name, bytes from the end, what stands there instead or None for nothing) of the last transaction's write."""
    places = [1, 8, 23, 512, 2048, 4096, 4097, 4119, FRAME, FRAME + 1, FRAME + 2048, 2 * FRAME - 1, 2 * FRAME]
    kinds = {"cut": None, "zeros": b"\0", "garbage": b"\xa5"}
    return [(f"{name}-{place}", place, what) for name, what in kinds.items() for place in places]


@pytest.mark.parametrize(("place", "what"), [each[1:] for each in torn()], ids=[each[0] for each in torn()])
def test_of_a_last_write_that_was_torn_the_step_is_there_whole_or_not_at_all(
    killed: Path, tmp_path: Path, expected: dict[str, Any], place: int, what: bytes | None
) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    log = run / "ledger.db-wal"
    log.write_bytes(log.read_bytes()[:-place] + (what or b"") * place)
    for opened in (Ledger.read, Ledger.open):
        with opened(run) as ledger:
            keys = [key for key, _, _ in ledger.events()]
        assert keys == [key for key, _, _ in expected["events"]][: len(keys)]
        assert len(expected["events"]) - len(keys) in (1, 2)  # two frames back may be the step before it
    assert faults.state(workloads.ledger(run)) == expected


# Another process, another time


def test_a_second_process_is_refused_at_every_step_and_the_first_is_unharmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    refused = 0

    class Busy(Ledger):
        def record(self, key: str, value: Any) -> Any:
            nonlocal refused
            with pytest.raises(LedgerError, match=rf"another process \(pid {os.getpid()}\) is on this run"):
                Ledger.open(self.folder)
            refused += 1
            return super().record(key, value)

    monkeypatch.setattr(workloads, "Ledger", Busy)
    assert faults.state(workloads.ledger(tmp_path / "run")) == expected
    assert refused == len(expected["events"])


@pytest.mark.parametrize("jump", [-86400.0, 86400.0, float(-(10**10))], ids=["a day back", "a day on", "before 1970"])
def test_a_clock_that_is_moved_between_steps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    times: list[float] = []

    def moved() -> float:
        times.append(1e9 + len(times) % 2 * jump)
        return times[-1]

    with workloads.watched(tmp_path / "log"):
        expected = faults.state(workloads.loop(tmp_path / "whole"))
        monkeypatch.setattr("sia_core.run.ledger.time", SimpleNamespace(time=moved))
        assert faults.state(workloads.loop(tmp_path / "run")) == expected
    with Ledger.read(tmp_path / "run") as ledger:
        assert [at for _, _, at in ledger.events()] == times


def test_an_error_that_a_disk_gives_is_told_with_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "run"))

    monkeypatch.setattr(os, "link", broken)
    with pytest.raises(LedgerError, match=r"run: Input/output error"):
        workloads.ledger(tmp_path / "run")
