"""Files that a stranger may have made: plain ones alone are read, none through a link inside of a folder, and so much.

What is checked is what is read: each name is opened once, below a folder that is open already.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sia_core.errors import UsageError

MOST_FILES = 10_000
MOST_BYTES = 2**30
_DEEPEST = 32

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_LINK = "is a link; put the file that it points to in its place"


def read_folder(
    folder: Path,
    *names: str,
    skip: Callable[[str], bool] = lambda path: False,
    most_files: int = MOST_FILES,
    most_bytes: int = MOST_BYTES,
) -> Iterator[tuple[str, bytes]]:
    """Every file of the folder at ``names`` below ``folder``, by its path from there, in the order of the names.

    ``folder`` itself may be a link. FileNotFoundError where there is none; UsageError, with the path
    and what to do, for anything but plain files and folders, and for more than ``most_files`` or ``most_bytes``.
    """
    where = folder.joinpath(*names)
    with _entered(folder, names) as inside:
        if not stat.S_ISDIR(os.fstat(inside).st_mode):
            raise UsageError(f"{where} is no folder")
        yield from _below(inside, where, "", _Room(where, most_files, most_bytes), skip)


def read_file(folder: Path, *names: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The file at ``names`` below ``folder``; FileNotFoundError where there is none, UsageError as for a folder."""
    where = folder.joinpath(*names)
    with _entered(folder, names) as inside:
        return _content(inside, where, _Room(where, 1, most_bytes))


def read_named(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """A file that the user has named, which may be a link; OSError where it cannot be opened, UsageError as above."""
    with _handle(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as inside:
        return _content(inside, path, _Room(path, 1, most_bytes))


class TooMuch(UsageError):
    """More files or bytes than are read."""


@dataclass
class _Room:
    """The bounds left for reading a folder or file."""

    where: Path
    files: int
    bytes: int

    def take(self, size: int) -> None:
        self.files -= 1
        self.bytes -= size
        if self.files < 0 or self.bytes < 0:
            raise TooMuch(f"{self.where} holds more files or bytes than are read here; leave out what is not needed")


def _below(
    inside: int, where: Path, prefix: str, room: _Room, skip: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    if prefix.count("/") > _DEEPEST:
        raise UsageError(f"{where} lies deeper than {_DEEPEST} folders; put it higher")
    for name in sorted(os.listdir(inside)):
        path = f"{prefix}{name}"
        if skip(path):
            continue
        if not name.isprintable():
            raise UsageError(f"{str(where / name)!a}: a name with characters that cannot be shown; rename it")
        with _handle(_opened(inside, name, where / name)) as handle:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                yield from _below(handle, where / name, f"{path}/", room, skip)
            else:
                yield path, _content(handle, where / name, room)


@contextmanager
def _entered(folder: Path, names: tuple[str, ...]) -> Iterator[int]:
    """Open ``names`` below a folder without following a link."""
    with _explained(folder):
        inside, where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), folder
    try:
        for name in names:
            where /= name
            outer, inside = inside, _opened(inside, name, where)
            os.close(outer)
        yield inside
    finally:
        os.close(inside)


@contextmanager
def _handle(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(inside: int, name: str, where: Path) -> int:
    """A descriptor of a plain file or folder; looked at first, as opening a device may already do something."""
    with _explained(where):
        mode = os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise UsageError(f"{where} {_LINK}")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UsageError(f"{where} is neither a file nor a folder; remove it")
    with _explained(where):
        return os.open(name, _PLAIN, dir_fd=inside)


@contextmanager
def _explained(where: Path) -> Iterator[None]:
    """A missing file is for the caller to judge; any other error names the path for the user."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(where)) from None
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from None


def _content(handle: int, where: Path, room: _Room) -> bytes:
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        raise UsageError(f"{where} is {'a folder' if stat.S_ISDIR(mode) else 'no plain file'}; give a file")
    with _explained(where), os.fdopen(os.dup(handle), "rb") as file:
        content = file.read(room.bytes + 1)
    room.take(len(content))
    return content
