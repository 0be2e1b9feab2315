"""How the processes outside of a sandbox are started: a clean interpreter, and nothing of the host's to inherit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sia_runtime.sandbox.solving import ENVIRONMENT

FLAGS = ("-s", "-P", "-S", "-B", "-c")
"""How an interpreter is started: from a text, and with nothing that it finds around it."""

CORE = Path(__file__).resolve().parents[1]

_P = TypeVar("_P", bound=subprocess.Popen[bytes])


class Supervisor(Protocol):
    """The process outside of a sandbox that the sandbox ends with. The methods are as Popen's."""

    pid: int

    def open_handle(self) -> int:
        """A descriptor of the process, to wait for its end by; the caller's to close."""

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def hang_up(self, channel: socket.socket) -> None:
        """Have it end its sandbox. Its control socket has been closed; ``channel`` is the host's end."""


Start = Callable[[int, int, int], Supervisor]
"""Starts a launcher, given its ends of the control socket, of the channel, and of its output."""


def interpreter() -> str:
    """The real interpreter: the one in a virtual environment would give that away, and needs it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def start_command(kind: type[_P], command: list[str], passed: tuple[int, ...], output: int) -> _P:
    """Start a program with a clean environment and no descriptor but those that are ``passed``."""
    return kind(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=passed,
        start_new_session=True,
        cwd="/",
    )
