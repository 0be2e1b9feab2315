"""The secret of a run, from which all that its verifier draws derives.

It lies in a file of the run's folder that harnesses, improvers, exports and views never
read, and goes to the verifier's process alone. Without it, nothing that a harness is told
predicts a draw: not its own seed, an instance's id, the run's seed or public code.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from pathlib import Path

from sia_core.errors import LedgerError
from sia_core.run.ledger import canonical, explained, sync_folder
from sia_core.run.rollouts import SECRET_BYTES

SECRET = "secret"
"""Its file in the run's folder."""

_SPELT = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")


def seed_of(secret: str, *purpose: str | int) -> int:
    """The seed for a purpose, of 63 bits: the same for the same secret, and without it not to be told from chance."""
    return int.from_bytes(hmac.digest(secret.encode(), canonical(purpose).encode(), "sha256")[:8]) >> 1


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
        # A pipe without a writer must not keep us waiting.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LedgerError(
            f"{path}: {error.strerror}; all that a run's verifier draws derives from this file: put it back from a "
            "copy, or start the run again. (A run of an older sia-core has none; only that one can finish it.)"
        ) from None
    with os.fdopen(handle, "rb") as file, explained(path.parent):
        plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        text = file.read(2 * SECRET_BYTES + 2).decode(errors="replace").strip() if plain else ""
    if not _SPELT.fullmatch(text):
        digits = 2 * SECRET_BYTES
        raise LedgerError(f"{path} is no file with a secret: {digits} hexadecimal digits, as a run writes it")
    return text
