"""The host's side of one sandbox: starts it, watches it, and kills it."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sia_core.errors import SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox import cgroup, kept, newroot, tree
from sia_runtime.sandbox.own_folder import claim
from sia_runtime.sandbox.starting import Start, Supervisor

START_SECONDS = 30.0
KILL_SECONDS = 10.0
PAUSE_SECONDS = 2.0
TICK_MS = 50
WALK_SECONDS = 0.5
"""Between two walks through the processes where a cgroup bounds what they take: a walk costs milliseconds."""
OPEN_FILES = 256

_KEPT_OUTPUT = 8 * 1024
_UNCOUNTED_BYTES = 64 * 2**20
_READ = 64 * 1024


def resource_limits(limits: Limits, processes: int, *, cuda: bool = False) -> dict[str, int]:
    """The limits that the kernel itself enforces, by the names of the ``resource`` module.

    With ``cuda`` addresses are not counted: the driver reserves as many as the devices and the machine
    have memory, and uses few. What is used is bounded by ``total_memory_bytes``.
    """
    return {
        **({} if cuda else {"RLIMIT_AS": limits.memory_bytes}),
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NPROC": processes,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
    }


class Running:
    """A running sandbox; :class:`sia_runtime.sandbox.contract.SandboxProcess`.

    A separate thread starts the process and then watches it: the kernel kills a
    sandbox whose parent *thread* has ended, so the caller's may not be its parent.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        limits: Limits,
        start: Start,
        scratch: Path | None = None,
        preface: bytes = b"",
    ) -> None:
        """Start. ``scratch`` is the writable folder where it is on the host's disk: watched, and removed at the end.

        The launcher reads the ``preface`` from its control socket, and then its configuration.
        """
        self._limits, self._scratch, self._start = limits, scratch, start
        self._own_network = scratch is None
        # Files in a private tmpfs count as memory, too.
        self._cgroup = cgroup.make(
            limits.total_memory_bytes + _UNCOUNTED_BYTES + (0 if scratch else limits.scratch_bytes)
        )
        self._next_walk = 0.0
        self._folder: int | None = None
        self._claim = None if scratch is None else claim(scratch)
        self._reason: str | None = None
        self._tail = b""
        self._mutex, self._reading = threading.Lock(), threading.Lock()
        self._killed = False
        self._control, control = socket.socketpair()
        self.channel, channel = socket.socketpair()
        self.listener: socket.socket | None = None
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        self._started = threading.Event()
        self._process: Supervisor | None = None
        self._failure: BaseException | None = None
        passed = (control.detach(), channel.detach(), output)
        self._watcher = threading.Thread(target=self._run, args=passed, name="sia-sandbox", daemon=True)
        self._watcher.start()
        try:
            self._hand_over(config, preface)
        except BaseException:
            self.kill()
            raise

    def ended(self) -> str | None:
        """Why it ended, or None while it runs."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._watcher.join()  # which looks a last time
        if self._reason is not None or code is None:
            return self._reason
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def stderr(self) -> str:
        """The last few kilobytes of what it printed."""
        self._read_output()
        return self._tail.decode(errors="replace")

    def pause(self) -> bool:
        """Make everything inside stand still; whether it does."""
        return self._process is None or tree.stop_descendants(self._process.pid, PAUSE_SECONDS)

    def resume(self) -> None:
        """Let it go on."""
        if self._process is not None and self._process.poll() is None:
            tree.continue_descendants(self._process.pid)

    def processor_seconds(self) -> dict[int, float]:
        """Seconds of a processor that each process inside has used which has not ended."""
        return {} if self._process is None else tree.processor_seconds(tree.descendants(self._process.pid))

    def kill(self) -> None:
        """Kill the whole tree of processes and remove the scratch folder. May be called twice."""
        with self._mutex:
            if self._killed:
                return
            self._killed = True
            self._control.close()
            if self._process is not None:
                self._process.hang_up(self.channel)
            self._watcher.join(KILL_SECONDS)
            if self._process is not None:
                self._process.kill()
            self._watcher.join()
            self.channel.close()
            if self.listener is not None:
                self.listener.close()
            if self._folder is not None:
                os.close(self._folder)
            self._read_output()
            with self._reading:
                os.close(self._output)
                self._output = -1
            if self._scratch is not None and self._scratch.exists():
                with suppress(OSError):  # what outlived the kill, where that can be, may still be writing there
                    tree.remove(str(self._scratch))
            if self._claim is not None:
                os.close(self._claim)
            if self._cgroup is not None:
                self._cgroup.remove()

    def _run(self, control: int, channel: int, output: int) -> None:
        try:
            self._process = self._start(control, channel, output)
        except BaseException as error:
            self._failure = error
        finally:
            for descriptor in (control, channel, output):
                os.close(descriptor)
            self._started.set()
        if self._process is not None:
            self._watch(self._process)

    def _hand_over(self, config: Mapping[str, Any], preface: bytes) -> None:
        """Give the launcher its configuration and wait until it has sealed the sandbox."""
        self._started.wait(START_SECONDS)
        if self._failure is not None:
            raise SandboxError(f"the sandbox cannot be started: {self._failure}")
        assert self._process is not None
        self._enclose(self._process.pid)
        self._control.settimeout(START_SECONDS)
        about = {**config, "supervisor": self._process.pid}
        try:
            self._control.sendall(preface + json.dumps(about).encode() + b"\n")
            report = json.loads(self._read_report() or b"null")
        except (OSError, ValueError) as error:
            report = {"error": f"no report ({error})"}
        if report is None:
            report = {"error": f"it ended before it was ready: {self.ended()}"}
        if "error" in report:
            self._read_output()
            why = f"{report['error']}\n{self.stderr()}".strip()
            raise SandboxError(f"the sandbox {config['kind']!r} did not start: {why}")

    def _enclose(self, supervisor: int) -> None:
        """Put it in its cgroup, before it has its configuration. Where that is refused, the other bounds hold alone."""
        waiting, members = [supervisor], set[int]()
        while self._cgroup is not None and waiting:
            for process in waiting:
                members.add(process)
                try:
                    self._cgroup.add(process)
                except ProcessLookupError:
                    continue
                except OSError:
                    self._cgroup.remove()
                    self._cgroup = None
                    return
            waiting = [each for each in tree.descendants(supervisor) if each not in members]

    def _read_report(self) -> bytes:
        """The launcher's line, and what may come with it: a listener, and the scratch folder's descriptor."""
        line = b""
        while not line.endswith(b"\n"):
            data, descriptors, _, _ = socket.recv_fds(self._control, _READ, 2)
            for descriptor in descriptors:
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    self.listener = socket.socket(fileno=descriptor)
                else:
                    self._folder = descriptor
            if not data:
                break
            line += data
        return line

    def _watch(self, process: Supervisor) -> None:
        """Until it ends: keep the end of its output, and look at what no limit of the kernel's bounds."""
        next_disk = 0.0
        handle = process.open_handle()
        end = select.poll()
        end.register(handle, select.POLLIN)
        while not end.poll(TICK_MS):
            self._read_output()
            reason = self._over_limit(process.pid)
            if reason is None and self._scratch is not None and time.monotonic() >= next_disk:
                started = time.monotonic()
                reason = "disk" if tree.disk(str(self._scratch)) > self._limits.scratch_bytes else None
                next_disk = time.monotonic() + 20 * (time.monotonic() - started)
            if reason is not None and self._reason is None:
                self._reason = reason
                process.terminate()  # the supervisor takes the whole tree with it
        os.close(handle)
        process.wait()
        self._read_output()
        if self._killed_by_kernel():
            self._reason = self._reason or "memory"

    def _killed_by_kernel(self) -> bool:
        """Whether something inside took more memory than its cgroup has."""
        return self._cgroup is not None and self._cgroup.exceeded()

    def _over_limit(self, supervisor: int) -> str | None:
        if self._killed_by_kernel():
            return "memory"
        if self._folder is not None and _files(self._folder) > newroot.FILES_IN_SCRATCH:
            return "disk"
        if self._cgroup is not None:
            if time.monotonic() < self._next_walk:
                return None
            self._next_walk = time.monotonic() + WALK_SECONDS
        inside = tree.descendants(supervisor)
        if tree.threads(inside) > self._limits.processes + 1:
            return "processes"
        most = self._limits.total_memory_bytes
        remaining = most - kept.at_most(inside, own_network=self._own_network, most_files=OPEN_FILES)
        if tree.memory(inside, remaining) <= remaining:
            return None
        remaining = most - kept.more_exactly(inside, own_network=self._own_network)
        return "memory" if tree.memory(inside, remaining) > remaining else None

    def _read_output(self) -> None:
        """Read a little at a time: who prints more than that has to wait."""
        with self._reading, suppress(BlockingIOError):
            if self._output < 0:
                return
            self._tail = (self._tail + os.read(self._output, _READ))[-_KEPT_OUTPUT:]


def _files(folder: int) -> int:
    """How many files a file system of the sandbox's own holds: each takes memory, an empty one too."""
    about = os.fstatvfs(folder)
    return about.f_files - about.f_ffree
