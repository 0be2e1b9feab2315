"""Reading a folder that somebody else may have filled: no link is followed, and only plain files are opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from sia_core.errors import LedgerError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEEPEST = 250  # who removes a folder recurses as deep
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def digest(name: object) -> str:
    """A name out of a record that becomes part of a path; LedgerError where it is no SHA-256 in hexadecimal."""
    if not isinstance(name, str) or not _DIGEST.fullmatch(name):
        raise LedgerError(f"the record names {str(name)[:80]!r}, where the digest of a content must stand")
    return name


def open_plain(folder: Path, *names: str, write: bool = False) -> int:
    """A descriptor of the file at ``names`` below a folder, for reading, or made where it is missing.

    LedgerError where anything on the way is a link, or the end is no plain file. The folder itself may be a link.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY)
    where, inside = folder, os.open(folder, _FOLDER)
    try:
        for remaining, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
            where /= name
            try:
                _check(where, os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode, is_file=not remaining)
            except FileNotFoundError as error:
                if remaining or not write:
                    error.filename = os.fspath(where)
                    raise
            try:
                opened = os.open(name, _FOLDER | os.O_NOFOLLOW if remaining else flags, 0o644, dir_fd=inside)
            except OSError as error:
                error.filename = os.fspath(where)
                raise
            outer, inside = inside, opened
            os.close(outer)
        _check(where, os.fstat(inside).st_mode, is_file=True)
    except BaseException:
        os.close(inside)
        raise
    return inside


def read_plain(folder: Path, *names: str, most: int) -> bytes:
    """The content of a plain file below a folder; LedgerError where it has more than ``most`` bytes."""
    with os.fdopen(open_plain(folder, *names), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise LedgerError(f"{folder.joinpath(*names)} has more than the {most:,} bytes that a run writes there")
    return content


def check_folder(folder: Path) -> None:
    """Refuse a path that is no folder itself, such as a link to one."""
    _check(folder, os.lstat(folder).st_mode, is_file=False)


def check_below(folder: Path) -> None:
    """Refuse a folder in which anything is neither a plain file nor a folder; links are not followed."""
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path.count(os.sep) > _DEEPEST:
                        raise LedgerError(f"{entry.path} lies deeper than any folder of a run, so this is refused")
                    folders.append(entry.path)
                else:
                    _check(Path(entry.path), entry.stat(follow_symlinks=False).st_mode, is_file=True)


def _check(path: Path, mode: int, *, is_file: bool) -> None:
    if not (stat.S_ISREG(mode) if is_file else stat.S_ISDIR(mode)):
        kind = _KINDS.get(stat.S_IFMT(mode), "a file")
        raise LedgerError(f"{path} is {kind}; SIA writes only plain files and folders into a run, so this is refused")
