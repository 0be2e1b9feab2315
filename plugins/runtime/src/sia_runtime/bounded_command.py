"""Running a command of the user's own that scores: with a time limit that holds for all that it starts."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sia_runtime.sandbox import linux, tree

KEPT_BYTES = 1 << 20
"""Of each stream its end is kept: a score stands in the last line."""

_READ = 1 << 16
_TICK_SECONDS = 0.05
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code`` is None where it took too long; of its streams the end is kept."""

    code: int | None
    stdout: bytes
    stderr: bytes


def run_command(
    command: Sequence[str], seconds: float, *, env: Mapping[str, str], stdin: bytes = b"", cwd: Path | None = None
) -> Ended:
    """Run a command, and kill all that it started once it took ``seconds``; OSError where it cannot be started.

    It has ended when its first process has, even if another one holds its output open. That
    one is killed too, unless it moved to another process group.
    """
    _adopt_orphans()
    before = set(tree.descendants(os.getpid()))
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        process = subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr:
        tails = {stdout: b"", stderr: b""}
        ended = False
        try:
            ended = _read(process, tails, time.monotonic() + seconds)
        finally:
            _kill(process, before, other_groups=not ended)
        return Ended(process.wait() if ended else None, tails[stdout], tails[stderr])


def _read(process: subprocess.Popen[bytes], tails: dict[IO[bytes], bytes], deadline: float) -> bool:
    """Keep the end of what the command prints until it ends; whether it did before the deadline."""
    with selectors.DefaultSelector() as selector:
        for stream in tails:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while process.poll() is None and time.monotonic() < deadline:
            if not selector.get_map():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                continue
            for key, _ in selector.select(_TICK_SECONDS):
                stream = next(each for each in tails if each is key.fileobj)
                if not _read_some(stream, tails):
                    selector.unregister(stream)
    if process.poll() is None:
        return False
    for stream in tails:
        for _ in range(2 * KEPT_BYTES // _READ):  # another process may print there without end
            if not _read_some(stream, tails):
                break
    return True


def _read_some(stream: IO[bytes], tails: dict[IO[bytes], bytes]) -> bool:
    """Read what is there, at most a little; whether there was anything."""
    try:
        data = os.read(stream.fileno(), _READ)
    except BlockingIOError:
        return False
    tails[stream] = (tails[stream] + data)[-KEPT_BYTES:]
    return bool(data)


def _adopt_orphans() -> None:
    """Become the parent of processes whose own has ended, so that they are still found."""
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)


def _kill(process: subprocess.Popen[bytes], before: set[int], *, other_groups: bool) -> None:
    """Kill what is left of a command's process group, or all that came of the command."""
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        remaining = set(tree.descendants(os.getpid())) - before - {process.pid}
        remaining = {pid for pid in remaining if other_groups or _group(pid) == process.pid}
        if not remaining:
            break
        for pid in remaining:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # ours only once its own parent has ended
                os.waitpid(pid, os.WNOHANG)
    process.wait()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
