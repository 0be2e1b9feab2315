"""The sandbox ``docker``: a container on an engine, for machines whose own kernel has no such walls.

On macOS and Windows the engine runs Linux in a virtual machine. The program reaches the
host over the container's standard streams and no other road; inside stands the same
stack of limits, Landlock and system call filter as everywhere.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sia_core.errors import SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox import bundle, cuda, launch, layout, newroot
from sia_runtime.sandbox.contract import GUARANTEES, SandboxSpec
from sia_runtime.sandbox.solving import ENVIRONMENT

IMAGE_VARIABLE = "SIA_DOCKER_IMAGE"
"""An image with a Python and the distributions that harnesses require, where the host's own do not fit in one."""

_USERS = 1 << 22
_ENGINE_SECONDS = 10.0
_START_SECONDS = 120.0
_KILL_SECONDS = 10.0
_LINE_BYTES = 1 << 16
_KEPT_OUTPUT = 8 * 1024
_OWN_PROCESSES = 2
_READABLE = (
    "/usr/lib",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
)
_BOUNDS = "{{.MemoryLimit}} {{.PidsLimit}}"


class Docker:
    """A container without network, capabilities or a writable root, that ends with the one who started it."""

    name = "docker"
    guarantees = frozenset(GUARANTEES)

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why."""
        from sia_runtime.sandbox.probes import attack

        try:
            _ask("version", "--format", "{{.Server.Version}}")
            bounds = _ask("info", "--format", _BOUNDS)
        except SandboxError as error:
            return dict.fromkeys(GUARANTEES, str(error))
        lacks = attack(self)
        # It is the engine that adds up memory here, whatever this host's kernel can list.
        lacks = {name: why for name, why in lacks.items() if name != "total_memory" or set(GUARANTEES) <= lacks.keys()}
        return lacks if bounds == "true true" else {**lacks, "total_memory": "the engine bounds no memory or processes"}

    def start(self, spec: SandboxSpec) -> Container:
        """Start a program; SandboxError where that fails."""
        if spec.cuda:
            raise cuda.refusal(self.name)
        layout.check_mounts(spec.mounts)
        name = f"sia-{secrets.token_hex(8)}"
        mounts = {mount.name: f"{layout.INSIDE}/{mount.name}" for mount in spec.mounts}
        config = {
            "mounts": mounts,
            "scratch": newroot.SCRATCH,
            "sys_path": [layout.LIBRARIES] if spec.libraries else [],
            "devices": [],
            "readable": [*_READABLE, layout.LIBRARIES, *mounts.values(), *launch.DEVICES],
            # Processes are counted by the container: users of the engine's machine are not this host's.
            "limits": {"RLIMIT_AS": spec.limits.memory_bytes},
        }
        order = bundle.sources(spec.program) + json.dumps(config).encode() + b"\n"
        return Container(_binary(), name, arguments(spec, name), order)


def arguments(spec: SandboxSpec, name: str) -> list[str]:
    """The arguments of ``docker``."""
    user = launch.FIRST_USER + secrets.randbelow(_USERS)
    limits, image = spec.limits, os.environ.get(IMAGE_VARIABLE)
    scratch = f"rw,nosuid,nodev,exec,size={limits.scratch_bytes},nr_inodes={newroot.FILES_IN_SCRATCH}"
    words = ["run", "--rm", "--interactive", "--name", name, "--network", "none", "--read-only", "--ipc", "none"]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{user}:{user}"]
    words += ["--pids-limit", str(limits.processes + _OWN_PROCESSES), "--memory", str(limits.total_memory_bytes)]
    words += ["--memory-swap", str(limits.total_memory_bytes), "--workdir", "/"]
    words += [word for each in _ulimits(limits) for word in ("--ulimit", each)]
    words += ["--tmpfs", f"{newroot.SCRATCH}:{scratch},mode=700,uid={user},gid={user}"]
    for mount in spec.mounts:
        for host, inside in layout.views_of(mount.host, f"{layout.INSIDE}/{mount.name}", as_other_user=True):
            words += _mount(host, inside)
    if image is None:
        words += _libraries(spec.libraries)
    words += [word for variable, value in ENVIRONMENT.items() for word in ("--env", f"{variable}={value}")]
    python = ["python", "-s", "-P", "-B", "-c", bundle.CONTAINED, "0", "1"]
    return [*words, image or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim", *python]


def _ulimits(limits: Limits) -> list[str]:
    return [f"fsize={limits.file_bytes}", "nofile=256", "core=0"]


def _mount(host: str, inside: str) -> list[str]:
    if "," in host:  # which parts the words of this option, and cannot be told from one
        raise SandboxError(f"{host}: docker cannot mount a path with a comma in it")
    return ["--mount", f"type=bind,src={host},dst={inside},readonly"]


def _libraries(libraries: tuple[Path, ...]) -> list[str]:
    """The host's own distributions, where they are of the container's kind of system."""
    if libraries and sys.platform != "linux":
        raise SandboxError(
            f"this harness requires distributions, and those of {sys.platform} do not run in a container: "
            f"build an image that has them, and name it in {IMAGE_VARIABLE}"
        )
    return [word for path in libraries for word in _mount(str(path), f"{layout.LIBRARIES}/{path.name}")]


class Container:
    """A running container; :class:`sia_runtime.sandbox.contract.SandboxProcess`."""

    listener: socket.socket | None = None

    def __init__(self, binary: str, name: str, words: list[str], order: bytes) -> None:
        """Start, send ``order``, and wait until the program is sealed in."""
        self._binary, self._name, self._tail = binary, name, b""
        self._mutex = threading.Lock()
        self._killed = False
        self.channel, theirs = socket.socketpair()
        with theirs:
            self._client: subprocess.Popen[bytes] = subprocess.Popen(
                [binary, *words],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read_output, name="sia-docker", daemon=True)
        self._reader.start()
        try:
            self._hand_over(order)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the container, which takes all in it along. May be called twice."""
        with self._mutex:
            if self._killed:
                return
            self._killed = True
            self.channel.close()
            if self._client.poll() is None:
                with suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(
                        [self._binary, "kill", self._name],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        timeout=_KILL_SECONDS,
                        check=False,
                    )
                with suppress(subprocess.TimeoutExpired):
                    self._client.wait(_KILL_SECONDS)
            self._client.kill()
            self._client.wait()
            self._reader.join(_KILL_SECONDS)

    def ended(self) -> str | None:
        """Why it ended, or None while it runs."""
        code = self._client.poll()
        if code is None:
            return None
        return f"signal {code - 128}" if code > 128 else f"exit {code}"

    def stderr(self) -> str:
        """The last few kilobytes of what it printed, and of what the engine's client did."""
        return self._tail.decode(errors="replace")

    def _hand_over(self, order: bytes) -> None:
        self.channel.settimeout(_START_SECONDS)
        try:
            self.channel.sendall(order)
            report = json.loads(self._read_line() or b"null")
        except (OSError, ValueError) as error:
            report = {"error": f"no report ({error})"}
        self.channel.settimeout(None)
        if report is None:
            with suppress(subprocess.TimeoutExpired):
                self._client.wait(_KILL_SECONDS)
            self._reader.join(_KILL_SECONDS)
            report = {"error": f"it ended before it was ready: {self.ended()}"}
        if "error" in report:
            raise SandboxError(f"the sandbox 'docker' did not start: {report['error']}\n{self.stderr()}".strip())

    def _read_line(self) -> bytes:
        """One line and nothing after it, which is the program's."""
        line, deadline = b"", time.monotonic() + _START_SECONDS
        while not line.endswith(b"\n") and len(line) < _LINE_BYTES and time.monotonic() < deadline:
            data = self.channel.recv(1)
            if not data:
                return b""
            line += data
        return line

    def _read_output(self) -> None:
        assert self._client.stderr is not None
        with self._client.stderr as source:
            while data := os.read(source.fileno(), _LINE_BYTES):
                self._tail = (self._tail + data)[-_KEPT_OUTPUT:]


def _binary() -> str:
    binary = shutil.which("docker")
    if binary is None:
        raise SandboxError("the program docker is not installed: https://docs.docker.com/get-docker/")
    return binary


def _ask(*words: str) -> str:
    """One question to the engine, in limited time."""
    try:
        result = subprocess.run(
            [_binary(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ENGINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"no docker engine answers within {_ENGINE_SECONDS:g} seconds") from None
    if result.returncode:
        raise SandboxError(f"no docker engine answers: {result.stderr.strip()[-300:]}")
    return result.stdout.strip()
