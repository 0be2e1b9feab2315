"""What shows runs in pictures: the protocol that ``sia view`` and ``sia report`` ask a plugin by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sia_core.plugins import Plugins

VIEW = "dashboard"
"""The view that the commands ask for, by the name of its offer."""


@dataclass(frozen=True)
class Address:
    """Where to serve: a host to bind to, and a port, 0 for any that is free."""

    host: str
    port: int


@runtime_checkable
class View(Protocol):
    """Shows runs that are finished, stopped or going on; it reads their folders and writes to none."""

    def serve(self, runs: Path, at: Address, run: str | None) -> None:
        """Serve the runs of a folder, and name the address of ``run``, or of their list, until interrupted.

        UsageError where the address cannot be had.
        """

    def page(self, run: Path) -> str:
        """A run as one HTML page that loads nothing."""

    def plots(self, run: Path, folder: Path) -> list[Path]:
        """Write the pictures of a run into a folder, as PNG files; UsageError where that takes another package."""


def view(plugins: Plugins) -> View:
    """The view that is installed; PluginError that says what to install where there is none."""
    found: View = plugins.create("view", VIEW)
    return found
