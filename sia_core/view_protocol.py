"""Views, which show runs in pictures: the protocol between ``sia view``, ``sia report`` and a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


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
