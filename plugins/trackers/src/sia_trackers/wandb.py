"""A run of Weights & Biases."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sia_core.errors import UsageError
from sia_core.given_files import read_named
from sia_core.hookspecs import Event
from sia_trackers.figures import Figures

AXES = {"gate": "candidate", "train": "step", "sealed": "seal"}
"""The x-axis of each group of figures."""

KEYLESS = ("offline", "disabled")
_SETTINGS_BYTES = 1 << 20


class WeightsAndBiases:
    """Logs a run's figures to a run of the same name in the project ``where``; no code and nothing of the machine."""

    def __init__(self, where: str = "sia") -> None:
        try:
            import wandb
        except ImportError:
            raise UsageError("--track wandb: it is not installed; `pip install 'sia-trackers[wandb]'`") from None
        if os.environ.get("WANDB_MODE") not in KEYLESS:
            _refuse_a_folder_that_redirects()
            try:
                wandb.login(timeout=1)
            except wandb.errors.Error as error:
                raise UsageError(
                    f"--track wandb: {error} Or set WANDB_MODE=offline, and nothing leaves this machine."
                ) from None
        self._where, self._library, self._figures = where, wandb, Figures()
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "run.started":
            about = {key: event.data[key] for key in ("task", "generations", "budget", "gate", "sealed")}
            quiet = self._library.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                host="-",
            )
            self._run = self._library.init(
                project=self._where, name=event.data["run"], config=about, settings=quiet, reinit="create_new"
            )
            for group, axis in AXES.items():
                self._run.define_metric(f"{group}/*", step_metric=axis)
        if self._run is None:
            return
        for series, place, value in self._figures.of(event):
            group = series.partition("/")[0]
            self._run.log({series: value, AXES[group]: place})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _refuse_a_folder_that_redirects() -> None:
    """UsageError where the working folder's settings name the server that gets the key, and the user does not."""
    if os.environ.get("WANDB_BASE_URL"):
        return
    for folder in ("wandb", ".wandb"):
        path = Path(os.environ.get("WANDB_DIR", ".")) / folder / "settings"
        with suppress(FileNotFoundError, NotADirectoryError):
            if "base_url" in read_named(path, _SETTINGS_BYTES).decode(errors="replace"):
                raise UsageError(
                    f"--track wandb: {path} names the server that your key is sent to; if it is yours, set "
                    "WANDB_BASE_URL to it, or else remove that line"
                )
