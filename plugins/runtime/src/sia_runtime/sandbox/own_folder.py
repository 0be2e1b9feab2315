"""A folder for temporary ones that a later process may have to remove. Nobody else can put anything into it.

Where others may write, as in ``/tmp``, a name says nothing about whose a folder is: a
link of that name would have root remove what the link points to.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sia_core.errors import SandboxError
from sia_runtime.sandbox import tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_YOUNG_SECONDS = 60.0


def own_folder(*, enterable: bool = False) -> Path:
    """``$TMPDIR/sia-UID``, which only this user can list and change; SandboxError where that name is taken.

    ``enterable`` lets other users go through to what they know the name of.
    """
    path, mode = Path(tempfile.gettempdir()) / f"sia-{os.geteuid()}", 0o711 if enterable else 0o700
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o066:
        raise SandboxError(
            f"{path} is not a folder that only this user can list and change, so what SIA makes there could be "
            "another's; remove it, or set TMPDIR to a folder of yours"
        )
    if stat.S_IMODE(about.st_mode) != mode:
        path.chmod(mode)
    return path


def claim(folder: Path) -> int:
    """Hold a lock on a folder, so that :func:`sweep` can tell it from one that was left behind."""
    handle = os.open(folder, _FOLDER)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def sweep() -> None:
    """Remove the folders of processes that were killed before they could: nobody holds their locks."""
    own = own_folder()
    for name in os.listdir(own):
        with suppress(OSError):
            handle = os.open(own / name, _FOLDER)
            try:
                if time.time() - os.fstat(handle).st_mtime >= _YOUNG_SECONDS:  # else perhaps not locked yet
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    tree.remove(str(own / name))
            finally:
                os.close(handle)
