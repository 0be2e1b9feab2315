"""The protocol of a command that a plugin adds to ``sia``."""

from __future__ import annotations

import argparse
from typing import Protocol, runtime_checkable


@runtime_checkable
class Command(Protocol):
    """A command of ``sia``. The summary of its offer is the description in its help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments and options."""

    def run(self, options: argparse.Namespace) -> int:
        """Do the work. The exit code: 0 done, 1 failed, 2 unusable input. SiaError where the user is to act."""
