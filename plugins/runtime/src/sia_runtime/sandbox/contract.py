"""The contract of sandboxes, and of the policy that answers what is asked inside one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sia_core.values import Limits

GUARANTEES = ("files", "net", "environment", "processes", "total_memory", "total_disk")
REQUIRED_GUARANTEES = frozenset({"files", "net", "environment", "processes"})


@dataclass(frozen=True)
class Mount:
    """A file or folder at ``host``, a path there, that a program in the sandbox may read, by its ``name``."""

    name: str
    host: Path


@dataclass(frozen=True)
class SandboxSpec:
    """A ``program`` to start, a Python file that defines ``main(channel, world)``, within ``limits``.

    It is loaded before the sandbox is sealed and may import the standard library
    and modules of ``sia_runtime.sandbox`` that import nothing else; ``main`` runs
    inside, with the descriptor of its end of the channel and a
    :class:`sia_runtime.sandbox.launch.World` that gives each mount's path by its name
    and ``scratch``, the writable folder. ``sys.path`` holds the ``libraries``:
    packages, modules and metadata folders, at the top of one folder; modules of them named
    in ``imports`` may be imported before the sandbox is made, for many at once. With
    ``listener``, a sandbox with its own network gives the host a listener on its loopback;
    with ``cuda`` the program may use the host's CUDA devices, whose driver is then a wall less.
    """

    program: Path
    mounts: tuple[Mount, ...] = ()
    libraries: tuple[Path, ...] = ()
    imports: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    listener: bool = False
    cuda: bool = False


class SandboxProcess(Protocol):
    """A running sandbox. ``channel`` is the host's end of a stream socket.

    ``listener`` accepts what the program inside connects to, the one address that it
    can; None where the spec asked for none or the sandbox can have none.
    """

    channel: socket.socket
    listener: socket.socket | None

    def kill(self) -> None:
        """Kill the whole tree of processes and remove the scratch folder. May be called twice."""

    def ended(self) -> str | None:
        """Why it ended (``exit 1``, ``signal 9``, ``memory``, ``processes``, ``disk``), or None while it runs."""

    def stderr(self) -> str:
        """The last few kilobytes of what it printed: a diagnostic, from a hostile source."""


@runtime_checkable
class Sandbox(Protocol):
    """Isolates candidate code. ``guarantees`` says what it holds back, rather than what it is made of."""

    name: str
    guarantees: frozenset[str]

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why. Empty when all hold."""

    def start(self, spec: SandboxSpec) -> SandboxProcess:
        """Start a program; SandboxError where that fails."""


class ModelAccess(Protocol):
    """The run's policy, asked on behalf of harnesses, by several threads. Each rollout has its own key."""

    def begin(
        self,
        key: str,
        seed: int,
        *,
        group: int = 1,
        training: bool = False,
        place: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """A rollout starts, perhaps for the second time: nothing of an earlier start counts any more but its tokens.

        ``group`` is how many rollouts of one prompt there will be; in ``training``, the
        engine's own temperature holds, whatever the harness asks for. Calls that may take
        it past ``tokens``, of prompts and replies, are refused.
        """

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        """One call in the shape of chat completions; the future holds the reply, or ``{"error": {"message", ...}}``."""

    def end(self, key: str) -> None:
        """The rollout asks nothing more. May be called twice."""
