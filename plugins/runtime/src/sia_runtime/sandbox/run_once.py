"""Running a candidate's program once, in a fresh sandbox: for verifiers that judge code."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_core.errors import SandboxError
from sia_core.harness import check_path
from sia_core.types import Limits, Ran
from sia_runtime.sandbox import program
from sia_runtime.sandbox.contract import Mount, Sandbox, SandboxProcess, SandboxSpec
from sia_runtime.sandbox.frames import (
    FrameReader,
    Header,
    ProtocolError,
    check_fields,
    encode,
    is_count,
    is_duration,
    is_one_of,
    reading,
)
from sia_runtime.sandbox.libraries import import_names, library_paths

_GRACE_SECONDS = 5.0
_STOPPED = ("ok", "timeout", "killed", "flood")
_WATCHED = ("memory", "processes", "disk")
_REPORT = {
    "ended": is_one_of(frozenset(_STOPPED)),
    "exit_code": lambda code: code is None or (isinstance(code, int) and abs(code) < _MOST_CODE),
    "seconds": is_duration,
    "stdout": is_count,
}
_MOST_CODE = 256


def run_program(
    sandbox: Sandbox,
    files: Mapping[str, bytes],
    command: Sequence[str],
    stdin: bytes = b"",
    *,
    limits: Limits | None = None,
    requires: tuple[str, ...] = (),
) -> Ran:
    """Run ``["python", FILE, ARGUMENT...]`` over ``files``, which it finds in its working folder and cannot change.

    It has ``limits.solve_seconds``, of each of its streams ``limits.output_bytes``
    are kept, and it may import the distributions that ``requires`` names. Its exit
    code and what it prints are its own word, never a score.
    """
    if len(command) < 2 or command[0] != "python" or command[1] not in files:
        raise SandboxError(f"{list(command)}: a sandbox runs ['python', FILE, ...] with a FILE of those given")
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="sia-files-") as name:
        folder = Path(name) / "files"
        for path, content in files.items():
            target = folder / check_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for entry in (folder, *folder.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        mounts, libraries = (Mount("files", folder),), library_paths(requires)
        spec = SandboxSpec(Path(program.__file__), mounts, libraries, import_names(requires), limits)
        process = sandbox.start(spec)
        try:
            return _converse(process, command, stdin, limits)
        finally:
            process.kill()


def _converse(process: SandboxProcess, command: Sequence[str], stdin: bytes, limits: Limits) -> Ran:
    started = time.monotonic()
    deadline = started + limits.solve_seconds + _GRACE_SECONDS
    order: Header = {
        "arguments": list(command[1:]),
        "seconds": limits.solve_seconds,
        "output_bytes": limits.output_bytes,
    }
    try:
        process.channel.settimeout(deadline - time.monotonic())
        process.channel.sendall(encode(order, stdin))
        with reading():
            header, body = _receive(process.channel, deadline, 2 * limits.output_bytes)
            return _understand(header, body)
    except (OSError, ProtocolError):
        seconds = time.monotonic() - started
        reason = process.ended() or ("timeout" if seconds >= limits.solve_seconds else "killed")
        ended = reason if reason in (*_STOPPED, *_WATCHED) else "killed"
        return Ran(ended, None, b"", process.stderr().encode(), seconds)


def _receive(channel: socket.socket, deadline: float, body_bytes: int) -> tuple[Header, bytes]:
    reader = FrameReader(body_bytes)
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        data = channel.recv(1 << 18)
        if not data:
            raise ProtocolError("it ended without a word")
        if frames := reader.feed(data):
            return frames[0]


def _understand(header: Header, body: bytes) -> Ran:
    check_fields(header, _REPORT)
    fields: dict[str, Any] = header
    size = fields["stdout"]
    return Ran(fields["ended"], fields["exit_code"], body[:size], body[size:], float(fields["seconds"]))
