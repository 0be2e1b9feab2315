"""A sandbox that isolates nothing: what an attack does in it, it would do without a sandbox.

For tests alone. It declares no guarantee, so no run takes it by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import ClassVar

import sia_runtime
from sia_runtime.sandbox import tree
from sia_runtime.sandbox.contract import GUARANTEES, SandboxSpec
from sia_runtime.sandbox.launch import World

_START = "import sys; from sia_testing.naked import inside; inside(int(sys.argv[1]), sys.argv[2], sys.argv[3])"


class Naked:
    """Starts programs as they are, as this user, with all that this user may."""

    name = "naked"
    guarantees: ClassVar[frozenset[str]] = frozenset()

    def probe(self) -> Mapping[str, str]:
        return dict.fromkeys(GUARANTEES, "it isolates nothing")

    def start(self, spec: SandboxSpec) -> NakedProcess:
        return NakedProcess(spec)


class NakedProcess:
    """A program that runs; :class:`sia_runtime.sandbox.contract.SandboxProcess`."""

    listener = None

    def __init__(self, spec: SandboxSpec) -> None:
        self._folder = tempfile.mkdtemp(prefix="sia-naked-")
        self._printed = open(f"{self._folder}/printed", "w+b")  # noqa: SIM115 - closed by kill
        os.mkdir(f"{self._folder}/scratch")
        self.channel, channel = socket.socketpair()
        os.set_inheritable(channel.fileno(), True)
        mounts = json.dumps({mount.name: str(mount.host) for mount in spec.mounts})
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(channel.fileno()), str(spec.program), mounts],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            close_fds=False,
            start_new_session=True,
            cwd=f"{self._folder}/scratch",
            env={**os.environ, "PYTHONPATH": str(Path(sia_runtime.__file__).parents[1])},
        )
        channel.close()

    def ended(self) -> str | None:
        code = self._process.poll()
        return None if code is None else f"signal {-code}" if code < 0 else f"exit {code}"

    def stderr(self) -> str:
        with suppress(OSError, ValueError):
            self._printed.seek(0)
            return self._printed.read(8192).decode(errors="replace")
        return ""

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.channel.close()
        self._printed.close()
        with suppress(OSError):
            tree.remove(self._folder)


class _Open(World):
    """A world that confines nothing."""

    def __init__(self, mounts: Mapping[str, str], scratch: str) -> None:
        self.mounts, self.scratch, self.port = mounts, scratch, None

    def rules(self, scratch: str, readable: object = ()) -> None:
        return None

    def confine(self, rules: int | None) -> None:
        return None

    def settle(self) -> None:
        return None


def inside(channel: int, program: str, mounts: str) -> None:
    """The new process: load the program and run it."""
    spec = spec_from_file_location("sia_program", program)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(channel, _Open(json.loads(mounts), os.getcwd()))
