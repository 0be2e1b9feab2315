"""Event files for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sia_core.errors import UsageError
from sia_core.hookspecs import Event
from sia_trackers.figures import Figures

MARK = "events.out.tfevents"


class TensorBoard:
    """Writes a run's figures to ``where``/RUN, in place of what a run of this name wrote there before."""

    def __init__(self, where: str = "tensorboard") -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event as Entry
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise UsageError(
                "--track tensorboard: it is not installed; `pip install 'sia-trackers[tensorboard]'`"
            ) from None
        self._where, self._open, self._entry, self._summary = Path(where), EventFileWriter, Entry, Summary
        self._figures = Figures()
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "run.started":
            folder = self._where / event.data["run"]
            _clear(folder)
            self._writer = self._open(str(folder))
        if self._writer is None:
            return
        for series, place, value in self._figures.of(event):
            # As a plain scalar, and not as tensorboard.summary.Writer's tensor: every reader lists it.
            summary = self._summary(value=[self._summary.Value(tag=series, simple_value=value)])
            self._writer.add_event(self._entry(wall_time=time.time(), step=place, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _clear(folder: Path) -> None:
    """Remove the event files, and nothing else, of an earlier part of this run."""
    if folder.is_dir():
        for file in folder.iterdir():
            if file.name.startswith(MARK):
                file.unlink()
