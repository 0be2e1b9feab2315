"""The runs of a folder for pages: their names, newest first, and each one's record, opened once."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sia_core.errors import LedgerError
from sia_core.run.run_folders import runs_in
from sia_dashboard.bounds import MOST_WORDS, addressable, cut
from sia_dashboard.records import BROKEN, Record

MOST_RUNS = 10_000
OPEN = 128
"""Records that are kept open, those that were asked for last."""

LISTED = 100
"""Runs that a list shows at once."""

LIST_SECONDS = 5.0
"""How long a list of runs reads records that were not read before."""


class Library:
    """The runs of a folder, each opened when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.Lock()
        self._open: OrderedDict[str, tuple[int, Record]] = OrderedDict()

    def names(self) -> list[str]:
        """The runs, the newest first; of more than can be listed, some."""
        try:
            with os.scandir(self.folder) as entries:
                folders = [entry.name for entry in islice(entries, MOST_RUNS)]
        except OSError:
            return []
        changed = {name: path.stat().st_mtime for name in folders if (path := self._record(name))}
        if len(changed) <= OPEN:
            places = {path.name: place for place, path in enumerate(runs_in(self.folder))}
            return sorted(changed, key=lambda name: places.get(name, -1), reverse=True)
        return sorted(changed, key=lambda name: (changed[name], name), reverse=True)

    def record(self, name: str) -> Record:
        """A run by its name; KeyError where there is none, LedgerError where it cannot be read."""
        path = self._record(name)
        if path is None:
            raise KeyError(name)
        inode = path.stat().st_ino
        with self._mutex:
            entry = self._open.get(name)
            if entry is None or entry[0] != inode:
                self._open[name] = inode, Record(self.folder / name)
                if len(self._open) > OPEN:
                    self._open.popitem(last=False)[1][1].close()
            self._open.move_to_end(name)
            return self._open[name][1]

    def reports(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """The report of each run; of one that is not shown, why. What takes too long is left for the next time."""
        until = time.monotonic() + LIST_SECONDS
        return [self._reported(name, until) for name in names]

    def _reported(self, name: str, until: float) -> Mapping[str, Any]:
        missing: dict[str, Any] = {"run": name, "generations": []}
        if not addressable(name):
            cause = "its name is not UTF-8, so that it has no address; rename its folder to open it"
            return {**missing, "status": "odd", "cause": cause}
        if time.monotonic() >= until and name not in self._open:
            return {**missing, "status": "not read yet", "later": True}
        try:
            return self.record(name).report()
        except BROKEN as error:
            cause = cut(
                str(error) if isinstance(error, LedgerError) else f"damaged: {type(error).__name__}: {error}",
                MOST_WORDS,
            )
            return {**missing, "status": "unreadable", "cause": cause}

    def seen(self) -> dict[str, int]:
        """How far each run is recorded that a list shows first and that can be read."""
        reached = {}
        for name in filter(addressable, self.names()[:LISTED]):
            try:
                reached[name] = self.record(name).seen()
            except BROKEN:
                reached[name] = -1
        return reached

    def close(self) -> None:
        for _, record in self._open.values():
            record.close()

    def _record(self, name: str) -> Path | None:
        """The record of a run below the folder; None where there is none, or the name leads elsewhere."""
        path = self.folder / name / "ledger.db"
        try:
            return path if path.parent.parent == self.folder and name != ".." and path.is_file() else None
        except (OSError, ValueError):  # too long a name, or a NUL in it
            return None
