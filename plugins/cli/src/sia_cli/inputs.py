"""The folder among the runs that keeps what was given in memory: functions as source, and cases."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sia_cli.config_file import is_argument
from sia_cli.stopping import Watch
from sia_core.cache import write_once
from sia_core.errors import LedgerError, SiaError, UsageError

INPUTS = "inputs"
RUNS = "name the folder that runs are kept in"


def path_of(value: Any, parameter: str, advice: str) -> Path:
    """The path that a parameter is; UsageError, which ends with advice, where no file can have such a name."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not is_argument(path):
        raise UsageError(f"{parameter}: {value!r} is no path; {advice}")
    return Path(path)


class Inputs:
    """The inputs of a run that is to be started in ``folder``. They stay there with the run, for it names them.

    They lie in a folder that no other run has, so that a start that fails can remove it.
    """

    def __init__(self, folder: Any) -> None:
        self.runs = path_of(folder, "folder", RUNS)
        self._folder = self.runs.absolute() / INPUTS
        self._new: list[Path] = [each for each in (self._folder, self._folder.parent) if not each.exists()]
        self._own: Path | None = None
        self._names: dict[str, str] = {}

    def keep(self, files: Mapping[str, bytes]) -> Path:
        """A folder with these files; UsageError where runs cannot be kept there."""
        try:
            while self._own is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # another start failed meanwhile, and removed its folders
                    self._own = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
                    self._own.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
        except OSError as error:
            raise UsageError(f"folder {self.runs}: {error.strerror}; name one that runs can be written to") from None
        return write_once(self._own, files)

    def name(self, given: str, parameter: str) -> None:
        """Have errors call what an option names by the parameter that it came by."""
        self._names[given] = parameter

    @contextmanager
    def kept_with(self, watch: Watch) -> Iterator[None]:
        """Remove what is new again where an error leaves no run, and have errors speak of parameters."""
        try:
            yield
        except SiaError as error:
            if not isinstance(error, LedgerError) and not (watch.name and (self.runs / watch.name).exists()):
                self._remove()
            text = str(error)
            for given, parameter in self._names.items():
                text = text.replace(given, parameter)
            error.args = (text,)
            raise

    def _remove(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        for each in self._new:
            with suppress(OSError):  # it holds what others wrote, or is not there
                each.rmdir()
