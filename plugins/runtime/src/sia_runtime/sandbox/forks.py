"""One process that solves, as the template sees it: its pipes, its job and its clock."""

from __future__ import annotations

import os
import time

from sia_runtime.sandbox.frames import FrameReader, Header, encode

FLOOD = 16
"""Printing this many times what is kept ends a solve."""

READ = 1 << 16


Place = tuple[str, "int | None"]
"""A folder in which one process after the other has its scratch folder, and the rules that confine each to it."""


class Solve:
    """One instance to solve: the host's number for it, its JSON, and the header for its solver.

    The header has the ``seed``, the ``token`` for the policy, if any, and the number of ``evaluations`` allowed.
    """

    def __init__(self, number: int, instance: bytes, header: Header) -> None:
        self.number, self.instance, self.header = number, instance, header

    @property
    def evaluates(self) -> bool:
        return self.header.get("evaluations") != 0


class Fork:
    """A process that solves, as the template sees it."""

    def __init__(self, pid: int, scratch: str, place: Place, pipes: tuple[int, int, int], body_bytes: int) -> None:
        self.pid, self.scratch, self.place = pid, scratch, place
        self.handle = os.pidfd_open(pid)
        self.requests, self.results, self.output = pipes
        self.reader = FrameReader(body_bytes)
        self.unsent = b""
        self.job: Solve | None = None
        self.started = self.deadline = 0.0
        self.asked = False
        self.waits, self.since = 0, 0.0
        self.log, self.printed = b"", 0
        self.open = {self.handle, self.results, self.output}

    def descriptors(self) -> tuple[int, int, int, int]:
        """All that this process holds of it."""
        return self.handle, self.requests, self.results, self.output

    def take_on(self, job: Solve, seconds: float) -> None:
        """Hand it an instance."""
        self.job, self.log, self.printed, self.asked, self.waits = job, b"", 0, False, 0
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.post(job.header, job.instance)

    def wait(self, *, begins: bool) -> None:
        """It begins or ceases to wait for the host: its clock stands still while any of its calls is under way."""
        now = time.monotonic()
        if begins:
            self.since = self.since if self.waits else now
            self.waits += 1
        elif self.waits:
            self.waits -= 1
            self.deadline += 0.0 if self.waits else now - self.since

    def post(self, header: Header, body: bytes) -> None:
        """Send it a frame; what its pipe does not take now is sent by :meth:`flush`."""
        self.unsent += encode(header, body)
        self.flush()

    def flush(self) -> None:
        """Send what waits. It may not be reading: nobody waits for it."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.requests, self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent = b""

    def collect(self, keep: int) -> None:
        """Take what it has printed."""
        try:
            while self.printed <= FLOOD * keep:
                data = os.read(self.output, READ)
                if not data:
                    self.open.discard(self.output)
                    return
                self.log += data[: max(0, keep - len(self.log))]
                self.printed += len(data)
        except BlockingIOError:
            pass
