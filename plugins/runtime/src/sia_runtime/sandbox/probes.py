"""The work of ``probe()``: attack a sandbox on this very machine, and see which of its guarantees hold."""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sia_core.errors import SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox import attacker, tree
from sia_runtime.sandbox.contract import GUARANTEES, Sandbox, SandboxProcess, SandboxSpec

_SECONDS = 10.0
_SURVIVOR_SECONDS = 1.0
_LIMITS = Limits(scratch_bytes=2**20, file_bytes=2**20, processes=16)
_REPORT_BYTES = 1 << 20


class Targets:
    """The targets of the attack: a secret that everyone may read, a folder that everyone may write, and listeners."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.secret, self.token = folder / "secret", secrets.token_hex(16)
        self.secret.write_text(self.token)
        self.secret.chmod(0o644)
        self.written = folder / "written"
        self._stack = stack
        self.tcp = self._listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.udp = self._listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.unix = self._listener(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket"))
        self.abstract = self._listener(socket.AF_UNIX, socket.SOCK_STREAM, f"\0sia-probe-{self.token[:8]}")
        (folder / "socket").chmod(0o777)

    def _listener(self, family: int, kind: int, address: Any) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener

    def reached(self) -> list[str]:
        """Which listeners something has come in at."""
        named = {"tcp": self.tcp, "udp": self.udp, "unix": self.unix, "abstract": self.abstract}
        ready = select.select(list(named.values()), [], [], 0)[0]
        return [name for name, listener in named.items() if listener in ready]

    def order(self) -> dict[str, Any]:
        """The attacker's input."""
        return {
            "secret": str(self.secret),
            "written": str(self.written),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": self.unix.getsockname(),
            "abstract": self.abstract.getsockname()[1:].decode(),
            "host": os.getpid(),
        }


@contextmanager
def _targets() -> Iterator[Targets]:
    with tempfile.TemporaryDirectory(prefix="sia-probe-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        yield Targets(folder, stack)


def attack(sandbox: Sandbox) -> dict[str, str]:
    """For each guarantee that an attack broke or that could not be tested, why."""
    with _targets() as targets:
        try:
            process = sandbox.start(SandboxSpec(Path(attacker.__file__), limits=_LIMITS))
        except (SandboxError, OSError) as error:  # another system than Linux lacks what is looked up in /proc
            return dict.fromkeys(GUARANTEES, str(error))
        channel = process.channel.dup()
        try:
            # Where a watchdog holds the disk, filling it would end the attack, report and all.
            report = _run(process, {**targets.order(), "fill": "total_disk" in sandbox.guarantees})
            process.kill()
            survived = not _closes(channel)
        finally:
            process.kill()
            channel.close()
        if report is None:
            return dict.fromkeys(
                GUARANTEES, f"the attacking program did not report: {process.ended()} {process.stderr()[-500:]}"
            )
        return _judge(report, targets, survived=survived)


def _run(process: SandboxProcess, order: dict[str, Any]) -> dict[str, Any] | None:
    process.channel.settimeout(_SECONDS)
    try:
        process.channel.sendall(json.dumps(order).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n") and len(data) < _REPORT_BYTES:
            part = process.channel.recv(65536)
            if not part:
                return None
            data += part
        report = json.loads(data)
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def _closes(channel: socket.socket) -> bool:
    """Whether every process that held the other end has gone."""
    channel.settimeout(_SURVIVOR_SECONDS)
    try:
        return channel.recv(1) == b""
    except OSError as error:
        return not isinstance(error, TimeoutError)


def _judge(report: dict[str, Any], targets: Targets, *, survived: bool) -> dict[str, str]:
    broken: dict[str, str] = {}
    if report.get("secret") == targets.token:
        broken["files"] = "a program inside read a file of the host's"
    elif targets.written.exists():
        broken["files"] = "a program inside wrote a file of the host's"
    if reached := targets.reached():
        broken["net"] = f"a program inside reached a listener: {', '.join(reached)}"
    if report.get("environ"):
        broken["environment"] = f"a program inside read the environment: {str(report['environ'])[:200]}"
    if report.get("signalled"):
        broken["processes"] = "a program inside may signal the process that started it"
    elif survived:
        broken["processes"] = "a daemon outlived the kill"
    if report.get("filled"):
        broken["total_disk"] = "a program inside wrote more than its scratch folder may hold"
    if not tree.can_list(os.getpid(), threading.get_native_id()):
        broken["total_memory"] = "this kernel does not list a process's children (CONFIG_PROC_CHILDREN)"
    return broken
