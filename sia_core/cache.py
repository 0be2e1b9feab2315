"""The user's cache folder: derived files by digest, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sia_core.errors import UsageError


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/sia/NAME``, or ``~/.cache/sia/NAME``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # its specification says to ignore such a one
        base = Path("~/.cache").expanduser()
    return base / "sia" / name


def write_once(parent: Path, files: Mapping[str, bytes]) -> Path:
    """A folder below ``parent`` with these files, named by their digest. Made once, atomically."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    target = parent / whole.hexdigest()[:32]
    if target.is_dir():
        return target
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent))
        try:
            temporary.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
            for name, content in files.items():
                for folder in (temporary / name).relative_to(temporary).parents[:-1]:
                    (temporary / folder).mkdir(exist_ok=True, parents=True)
                    (temporary / folder).chmod(0o755)
                with (temporary / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())  # before the rename, or a power cut leaves empty files for good
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        if not target.is_dir():
            raise UsageError(f"{parent}: {error.strerror}; set XDG_CACHE_HOME to a folder with room") from None
    return target
