"""Memory that the kernel keeps for a sandbox and counts for no process: data sent through sockets and not read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_FEW_BYTES = 212_992
_TCP_BYTES = 4 * 2**20
_OVERHEAD = 2
"""Bytes a buffer takes for one of its limit: the last piece may go past it, and each piece has a description."""


def at_most(processes: Sequence[int], *, own_network: bool, most_files: int) -> int:
    """An upper bound in bytes that costs next to nothing."""
    if not own_network:
        return _each() * sum(_files(process, most_files) for process in processes)
    sockets, tcp = _count(processes)
    return _each() * sockets + _OVERHEAD * _TCP_BYTES * tcp


def more_exactly(processes: Sequence[int], *, own_network: bool) -> int:
    """A smaller bound: sockets, not files, each once; and of TCP what lies in its queues."""
    if own_network:
        return _each() * _count(processes)[0] + _OVERHEAD * _queued(processes)
    targets: set[str] = set()
    for process in processes:
        with suppress(OSError):  # it has ended
            for name in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    targets.add(os.readlink(f"/proc/{process}/fd/{name}"))
    return _each() * sum(each.startswith("socket:") for each in targets)


@lru_cache(maxsize=1)
def _each() -> int:
    """Bytes that one Unix socket may hold; nobody inside can change its size."""
    with suppress(OSError, ValueError):
        return _OVERHEAD * int(Path("/proc/sys/net/core/wmem_default").read_text())
    return _OVERHEAD * _FEW_BYTES


def _files(process: int, most: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except PermissionError:
        return most
    except OSError:
        return 0


def _count(processes: Sequence[int]) -> tuple[int, int]:
    """The sockets of these processes' network, those included that no process has open; and how many speak TCP."""
    for process in processes:
        with suppress(OSError, IndexError, ValueError):
            lines = [line.split() for line in Path(f"/proc/{process}/net/sockstat").read_text().splitlines()]
            counts = {line[0]: int(line[2]) for line in lines}
            return counts["sockets:"], counts.get("TCP:", 0)
    return 0, 0


def _queued(processes: Sequence[int]) -> int:
    for process in processes:
        with suppress(OSError, IndexError, ValueError):
            lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
            return sum(int(part, 16) for line in lines for part in line.split()[4].split(":"))
    return 0
