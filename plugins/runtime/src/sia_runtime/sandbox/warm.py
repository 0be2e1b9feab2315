"""Templates, as their owner sees them: one process a set of libraries, started when it is first needed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sia_core.errors import SandboxError
from sia_runtime.sandbox import launch
from sia_runtime.sandbox.starting import CORE, FLAGS, Supervisor, interpreter, start_command

MOST_TEMPLATES = 4
_IMPORT_SECONDS = 120.0
_START_SECONDS = 30.0
_END_SECONDS = 2.0


class Forked:
    """A launcher that a template forked. It keeps its template alive."""

    def __init__(self, template: Template, pid: int, ended: int) -> None:
        self.pid = pid
        # Its end waits for a configuration that the host has not sent yet, so the number is still its own.
        self._handle = os.pidfd_open(pid)
        self._template, self._ended = template, ended
        self._mutex = threading.Lock()
        self._code: int | None = None
        weakref.finalize(self, _close, self._handle, ended)

    def open_handle(self) -> int:
        return os.dup(self._handle)

    def poll(self) -> int | None:
        with self._mutex:
            if self._code is None and select.select([self._handle], [], [], 0)[0]:
                status = os.read(self._ended, 16)
                self._code = os.waitstatus_to_exitcode(int(status)) if status else -signal.SIGKILL
            return self._code

    def wait(self) -> int:
        select.select([self._handle], [], [])
        code = self.poll()
        assert code is not None
        return code

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def hang_up(self, channel: socket.socket) -> None:
        """Nothing is left to do: it looks at its control socket."""

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)


class Template:
    """One template process."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Start it, and wait until it has imported what it shall. SandboxError where it cannot be prepared."""
        self._mutex = threading.Lock()
        self._end, there = socket.socketpair()
        with there, open(os.devnull, "wb") as nowhere:
            command = [interpreter(), *FLAGS, launch.BOOTSTRAP, str(CORE), str(there.fileno())]
            self._process = start_command(subprocess.Popen, command, (there.fileno(),), nowhere.fileno())
        weakref.finalize(self, _end, os.getpid(), self._end, self._process)
        about = self._prepare(config)
        self.shares: list[str] = about["shares"]
        self.sys_path: list[str] = about["sys_path"]

    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, program: str, control: int, channel: int, output: int) -> Supervisor:
        """Fork a launcher for a program; its ends stay the caller's to close."""
        source, ended = os.pipe()
        try:
            return Forked(self, self._fork(program, [control, channel, output, ended]), source)
        except BaseException:
            os.close(source)
            raise
        finally:
            os.close(ended)

    def _fork(self, program: str, descriptors: list[int]) -> int:
        """The number of a new launcher. A template that does not answer is given up."""
        try:
            with self._mutex:
                self._end.settimeout(_START_SECONDS)
                socket.send_fds(self._end, [program.encode()], descriptors)
                reply = self._end.recv(4, socket.MSG_WAITALL)
        except OSError as error:
            self._process.kill()
            raise SandboxError(f"the process that starts sandboxes does not answer: {error}") from None
        if len(reply) < 4:
            raise SandboxError("the process that starts sandboxes has ended")
        return int.from_bytes(reply, "big")

    def _prepare(self, config: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._end.settimeout(_IMPORT_SECONDS)
            self._end.sendall(json.dumps(config).encode() + b"\n")
            with self._end.makefile("rb") as lines:
                reply = json.loads(lines.readline() or b"null")
        except (OSError, ValueError) as error:
            reply = {"error": f"no word of it ({error})"}
        if not reply or "error" in reply:
            raise SandboxError(f"the sandbox cannot be prepared: {reply['error'] if reply else 'it ended at once'}")
        return dict(reply)


class Templates:
    """The templates of one sandbox, the latest few. Safe to use from several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._places: OrderedDict[tuple[int, str], _Place] = OrderedDict()

    def get(self, config: Mapping[str, Any]) -> Template:
        """The template for ``config``, started now if it is not there, with as many of its imports as it can have."""
        key = os.getpid(), json.dumps(config)
        with self._mutex:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > MOST_TEMPLATES:  # it lives on until the last that it started has ended
                self._places.popitem(last=False)
        with place.mutex:
            if place.template is None or not place.template.alive():
                place.template = _prepared(config)
            return place.template


class _Place:
    """Where a template is or is being started."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.template: Template | None = None


def _prepared(config: Mapping[str, Any]) -> Template:
    """A template that may fork: one whose forks would share nothing, even if that costs its imports.

    A thread does not survive a fork, with the locks that it held; and through a descriptor or
    memory that a library left open, one sandbox could tell another something.
    """
    if config["imports"]:
        with suppress(SandboxError):
            template = Template(config)
            if not template.shares:
                return template
    return Template({**config, "imports": []})


def _end(owner: int, end: socket.socket, process: subprocess.Popen[bytes]) -> None:
    if os.getpid() == owner:
        end.close()  # which ends it; it has a folder to remove
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
