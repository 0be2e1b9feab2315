"""A run of Trackio, in a database on this machine or in a Space."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

from sia_core.errors import UsageError
from sia_core.hookspecs import Event
from sia_trackers.figures import Figures


class Trackio:
    """Logs a run's figures under its name in the project ``where``; nothing of the machine."""

    def __init__(self, where: str = "sia") -> None:
        try:
            import trackio
        except ImportError:
            raise UsageError("--track trackio: it is not installed; `pip install 'sia-trackers[trackio]'`") from None
        self._where, self._library, self._figures = where, trackio, Figures()
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "run.started":
            about = {key: event.data[key] for key in ("task", "generations", "budget", "gate", "sealed")}
            with redirect_stdout(sys.stderr):  # it prints where to look; standard output is the report's
                self._run = self._library.init(
                    project=self._where,
                    name=event.data["run"],
                    config=about,
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        if self._run is None:
            return
        for series, place, value in self._figures.of(event):
            self._run.log({series: value}, step=place)

    def close(self) -> None:
        if self._run is not None:
            with redirect_stdout(sys.stderr):
                self._run.finish()
