"""The folders of runs: claiming a new one, and finding one that is there."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.run.database import first_time
from sia_core.run.ledger import is_run


def new_folder(runs: Path, task: str, name: str | None = None) -> Path:
    """Claim the folder of a new run: by its ``name``, or by task and date.

    ``runs/lawbench-2026-01-31`` is followed by ``runs/lawbench-2026-01-31-2`` and so on.
    """
    plain = re.sub(r"[^\w.-]+", "-", task)[:60].strip("-.") or "run"
    stem = f"{plain}-{datetime.now().astimezone().date()}"
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs / next(names) if name is None else free_folder(runs, name)
            with suppress(FileExistsError):  # another run may claim it meanwhile
                folder.mkdir()
                return folder
    except OSError as error:
        raise UsageError(f"--runs-dir {runs}: {error.strerror}") from None


def free_folder(runs: Path, name: str) -> Path:
    """Where a run that its user named will lie; UsageError where it cannot."""
    if re.sub(r"[^\w.-]+", "-", name).strip("-.") != name or not 0 < len(name.encode()) <= 200:
        raise UsageError(f"--name {name!r}: a run's name holds letters, digits and . _ - inside, at most 200 bytes")
    if os.path.lexists(runs / name):
        by = f"go on with it by `sia resume {name}`, or take another" if is_run(runs / name) else "take another name"
        raise UsageError(f"--name {name}: {runs / name} exists; {by}")
    return runs / name


def runs_in(folder: Path) -> list[Path]:
    """The runs of a folder, the newest last."""
    runs = [path for path in folder.glob("*") if is_run(path)] if folder.is_dir() else []
    return sorted(runs, key=lambda path: (first_time(path), path.name))


def find_run(runs: Path, name: str | None) -> Path:
    """A run by its name or path; the newest where no name is given."""
    if name is None:
        newest = runs_in(runs)
        if not newest:
            raise UsageError(f"no run in {runs}; start one with `sia run --plugin NAME`, or give --runs-dir")
        return newest[-1]
    if path := next(filter(is_run, (runs / name, Path(name))), None):
        return path
    names = ", ".join(path.name for path in runs_in(runs)[-5:]) or "none"
    half = " (that folder has no ledger.db)" if name and os.path.isdir(runs / name) else ""
    raise UsageError(f"no run {name!r} in {os.fspath(runs)}{half}; the last ones there: {names}")
