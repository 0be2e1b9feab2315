"""A cgroup for each sandbox, where this process may make one: there the kernel bounds all memory, its own included."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAME = "sia-sandbox-"
_NUMBERS = itertools.count()
_REMOVE_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """A cgroup in which others may be made, and the files of theirs: the second hierarchy's, or the first's."""

    folder: Path
    limit: str
    events: str


class Cgroup:
    """One sandbox's. What is added stays in it, with all that it starts."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder, self._events = folder, folder / place.events

    def add(self, process: int) -> None:
        """OSError where it has ended, or may not be moved."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def exceeded(self) -> bool:
        """Whether the kernel killed something in it over its limit."""
        with suppress(OSError):
            return re.search(r"^oom_kill [1-9]", self._events.read_text(), re.MULTILINE) is not None
        return False

    def remove(self) -> None:
        """Once all in it has ended, for which the kernel may need a moment."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while not _removed(self._folder) and time.monotonic() < deadline:
            time.sleep(0.005)


def make(limit: int, root: Path = Path("/")) -> Cgroup | None:
    """A new cgroup with a limit in bytes; None where none can be had. Those of owners that were killed go."""
    for place in places(root):
        with suppress(OSError):
            for leftover in place.folder.glob(f"{_NAME}*"):
                if not os.path.exists(f"/proc/{leftover.name.split('-')[2]}"):
                    _removed(leftover)
            folder = place.folder / f"{_NAME}{os.getpid()}-{next(_NUMBERS)}"
            folder.mkdir()
            try:
                (folder / place.limit).write_text(str(limit))
                return Cgroup(folder, place)
            except OSError:
                _removed(folder)
    return None


def places(root: Path = Path("/")) -> Iterator[Place]:
    """Where a cgroup may be made: beside or below this process, but never past a limit on its memory."""
    with suppress(OSError, ValueError):
        own = dict(_own(root))
        for mount, kind, options in _mounts(root):
            if kind == "cgroup" and "memory" in options and "memory" in own:
                yield Place(mount / own["memory"], "memory.limit_in_bytes", "memory.oom_control")
            if kind == "cgroup2" and "" in own:
                folder = mount / own[""]
                for each in (folder, *folder.parents):
                    if "memory" in _read(each / "cgroup.subtree_control").split():
                        yield Place(each, "memory.max", "memory.events")
                    if each == mount or _read(each / "memory.max").strip() not in ("max", ""):
                        break


def _own(root: Path) -> Iterator[tuple[str, str]]:
    """This process's cgroup by the controller; by an empty text in the second hierarchy."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path.lstrip("/")


def _mounts(root: Path) -> Iterator[tuple[Path, str, list[str]]]:
    for line in (root / "proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        yield root / place.lstrip("/"), kind, options.split(",")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
