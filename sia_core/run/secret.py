"""The secret of a run, from which all that its verifier draws derives.

It lies in a file of the run's folder that harnesses, improvers, exports and views never
read, and goes to the verifier's process alone. Without it, nothing that a harness is told
predicts a draw: not its own seed, an instance's id, the run's seed or public code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sia_core.errors import LedgerError
from sia_core.run.beneath import open_plain
from sia_core.run.ledger import explained, sync_folder
from sia_core.run.rollouts import SECRET_BYTES

SECRET = "secret"
"""Its file in the run's folder."""

_SPELT = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")


def keep_secret(path: Path, secret: str) -> None:
    """Write it to a new file that its owner alone may read, durably."""
    with explained(path.parent):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)


def read_secret(path: Path) -> str:
    """The secret in a file; LedgerError where there is none. Links and special files are refused."""
    try:
        handle = open_plain(path.parent, path.name)
    except OSError as error:
        raise LedgerError(
            f"{path}: {error.strerror}; all that a run's verifier draws derives from this file: put it back from a "
            "copy, or start the run again. (A run of an older sia-core has none; only that one can finish it.)"
        ) from None
    with os.fdopen(handle, "rb") as file, explained(path.parent):
        text = file.read(2 * SECRET_BYTES + 2).decode(errors="replace").strip()
    if not _SPELT.fullmatch(text):
        digits = 2 * SECRET_BYTES
        raise LedgerError(f"{path} is no file with a secret: {digits} hexadecimal digits, as in a run's file `secret`")
    return text
