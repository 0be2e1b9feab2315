"""Trees of processes and of files: measured for a watchdog, and removed when their sandbox ends.

What they hold comes from hostile code, so nothing here follows a link, recurses
as deep as a path, or trusts that a process id still means the same process.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_ENTRY_BYTES = 4096
"""The bytes that a file counts for beyond its content."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ENDED = (b"Z", b"X")
_STANDING = (b"T", *_ENDED)


def descendants(root: int) -> list[int]:
    """The processes below ``root``, itself left out. A snapshot: it may be old when it returns."""
    result: list[int] = []
    waiting = [root]
    while waiting:
        children = list(_children(waiting.pop()))
        result += children
        waiting += children
    return result


def _children(process: int) -> Iterator[int]:
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as children:
                yield from map(int, children.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def threads(processes: list[int]) -> int:
    """How many threads these processes have, one each at least: what the kernel's own limit counts."""
    return sum(map(_threads, processes))


def _threads(process: int) -> int:
    try:
        return max(1, len(os.listdir(f"/proc/{process}/task")))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def processor_seconds(processes: list[int]) -> dict[int, float]:
    """Seconds of a processor that each of these processes has used, all its threads together; not of ended ones."""
    return {process: _processor_seconds(process) for process in processes if not _has_ended(process)}


def _has_ended(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in _ENDED
    except (FileNotFoundError, ProcessLookupError):
        return True


def _processor_seconds(process: int) -> float:
    try:
        return time.clock_gettime(~process << 3 | 2)  # the clock that clock_getcpuclockid(3) names
    except OSError:
        return 0.0


def kill_descendants(root: int, seconds: float) -> None:
    """Kill and reap all that is below ``root``, which is this process and adopts orphans."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        below = descendants(root)
        for process in below:
            _signal_if_below(process, {root, *below}, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def stop_descendants(root: int, seconds: float) -> bool:
    """Stop all threads of all that is below ``root``; whether they stand still. What stands still starts nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        below = descendants(root)
        running = [process for process in below if not _stands(process)]
        if not running:
            return True
        for process in running:
            _signal_if_below(process, {root, *below}, signal.SIGSTOP)
    return False


def continue_descendants(root: int) -> None:
    """Let go on what :func:`stop_descendants` stopped."""
    below = descendants(root)
    for process in below:
        _signal_if_below(process, {root, *below}, signal.SIGCONT)


def _stands(process: int) -> bool:
    """Whether every thread of a process is stopped, or has ended."""
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/stat", "rb") as stat:
                if stat.read().rpartition(b")")[2].split()[0] not in _STANDING:
                    return False
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.exists(f"/proc/{process}")
    return True


def _signal_if_below(process: int, parents: set[int], number: int) -> None:
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        # Asked with the handle open: a number that another process took over meanwhile has another parent.
        if parent(process) in parents:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def parent(process: int) -> int | None:
    """The parent of a process; None where there is no such process any more."""
    try:
        with open(f"/proc/{process}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def memory(processes: list[int], limit: int) -> int:
    """Bytes that these processes use together, exact only where a cheap upper bound is above ``limit``."""
    resident = sum(_resident(process) for process in processes)
    return resident if resident <= limit else sum(_proportional(process) for process in processes)


def _resident(process: int) -> int:
    try:
        with open(f"/proc/{process}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def _proportional(process: int) -> int:
    """Resident memory, with each page that several share split between them."""
    try:
        with open(f"/proc/{process}/smaps_rollup") as rollup:
            return next((int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:")), 0)
    except PermissionError:
        return _resident(process)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def disk(folder: str) -> int:
    """Bytes on disk below a folder, with a little for each entry: an empty file takes its part of the disk too.

    A folder so deep that its path cannot be named could hold anything, and counts for more than any disk has.
    """
    total = 0
    waiting: list[tuple[str, int | None]] = [(folder, None)]
    while waiting:
        path, number = waiting.pop()
        try:
            handle = os.open(path, _FOLDER)
            try:
                if number not in (
                    None,
                    os.fstat(handle).st_ino,
                ):  # a link on the way to it took the place of a folder meanwhile
                    continue
                with os.scandir(handle) as entries:
                    for entry in entries:
                        about = entry.stat(follow_symlinks=False)
                        total += about.st_blocks * 512 + _ENTRY_BYTES
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((f"{path}/{entry.name}", about.st_ino))
            finally:
                os.close(handle)
        except OSError as error:  # gone meanwhile, or too deep
            total += sys.maxsize if error.errno == errno.ENAMETOOLONG else 0
    return total


def remove(folder: str) -> None:
    """Remove a folder however deep it is. No link is followed, whatever still changes it meanwhile."""
    empty(folder)
    os.rmdir(folder)


def empty(folder: str) -> None:
    """The same of all that is in it.

    What lies two levels down is moved up one, so that few folders are open at once and
    nothing here recurses.
    """
    top = _open(folder)
    try:
        while names := os.listdir(top):
            for name in names:
                if not _unlinked(name, top):
                    _empty(name, top)
                    os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _empty(name: str, top: int) -> None:
    """Remove the files of a folder in ``top``, and move its folders there."""
    folder = _open(name, top)
    try:
        for inner in os.listdir(folder):
            if not _unlinked(inner, folder):
                os.close(_open(inner, folder))  # only a folder that may be changed can be moved
                os.rename(inner, os.urandom(16).hex(), src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)


def _unlinked(name: str, folder: int) -> bool:
    """Remove what is no folder; whether it was none."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def _open(name: str, folder: int | None = None) -> int:
    """Open a folder, never through a link, that its owner may list and change from then on."""
    try:
        handle = os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        _let_owner_in(name, folder)
        handle = os.open(name, _FOLDER, dir_fd=folder)
    with suppress(PermissionError):  # inside of a sandbox that refuses every chmod
        os.fchmod(handle, 0o700)
    return handle


def _let_owner_in(name: str, folder: int | None) -> None:
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)  # what was opened, whatever has its name by now
    except FileNotFoundError:  # a sandbox without /proc: there a link leads to nothing that is not its own
        os.chmod(name, 0o700, dir_fd=folder)
    finally:
        os.close(place)


def can_list(process: int, thread: int) -> bool:
    """Whether this kernel lists a process's children, which everything here rests on."""
    return os.path.exists(f"/proc/{process}/task/{thread}/children")
