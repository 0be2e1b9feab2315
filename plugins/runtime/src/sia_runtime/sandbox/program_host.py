"""A candidate's module, loaded in a fresh sandbox and called again and again: for verifiers that judge code.

Between calls all of its processes stand still, so that nothing is done while the next
inputs are made, after the clock has stopped, or at another program's cost. Arguments
lie in memory that is made for one call and emptied after it; results are copied before
anything of them is believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from sia_core.errors import SandboxError
from sia_core.harness import check_path
from sia_core.types import Called, Limits
from sia_runtime.sandbox import program_guest, values
from sia_runtime.sandbox.contract import Mount, Sandbox, SandboxProcess, SandboxSpec
from sia_runtime.sandbox.frames import (
    FrameReader,
    Header,
    ProtocolError,
    check_fields,
    encode,
    is_one_of,
    is_text,
    reading,
)
from sia_runtime.sandbox.libraries import import_names, library_paths

_WATCHED = ("memory", "processes", "disk")
_REPLY = {"token": is_text, "ended": is_one_of(frozenset(("ok", "error"))), "message": is_text}
_MESSAGE = 4000
_LAST_WORD_SECONDS = 2.0
_SEAL_TRIES = 20
_AWAKE_SECONDS = 0.01
"""Of a processor: what stands still uses none. A thread that stops may need a moment to leave its processor."""
_SIGNALLED = 128


def open_program(
    sandbox: Sandbox,
    files: Mapping[str, bytes],
    module: str,
    *,
    requires: tuple[str, ...] = (),
    limits: Limits | None = None,
    cuda: bool = False,
) -> Program:
    """Load ``module`` from ``files``: :class:`sia_core.types.OpenInSandbox`.

    Loading has ``limits.setup_seconds``; the arrays of one reply have at most ``limits.file_bytes``.
    """
    if f"{module.replace('.', '/')}.py" not in files:
        raise SandboxError(f"{module!r} is none of the modules that were given: {', '.join(files)}")
    limits = limits or Limits()
    requires = tuple(dict.fromkeys((*requires, "numpy")))
    folder = tempfile.TemporaryDirectory(prefix="sia-files-")
    try:
        mount = Mount("files", Path(folder.name) / "files")
        for path, content in files.items():
            target = mount.host / check_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for entry in (mount.host, *mount.host.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        # What has looked for a device as it was imported is of no use in a fork.
        libraries, imports = library_paths(requires), () if cuda else import_names(requires)
        spec = SandboxSpec(Path(program_guest.__file__), (mount,), libraries, imports, limits, cuda=cuda)
        return Program(sandbox.start(spec), module, limits, folder)
    except BaseException:
        folder.cleanup()
        raise


class Program:
    """The host's side of it: :class:`sia_core.types.OpenedProgram`."""

    def __init__(
        self, process: SandboxProcess, module: str, limits: Limits, folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        """Have the module loaded. ``folder`` is removed at the end."""
        self._process, self._limits, self._folder = process, limits, folder
        self._end: Called | None = None
        self._store: int | None = None
        self._used: Mapping[int, float] = {}
        self._started = time.perf_counter()
        try:
            self._store = store = _shared_memory(limits.file_bytes)
            self._reader = FrameReader(0)
            self._load(module, store)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill it. May be called twice."""
        self._process.kill()
        self._folder.cleanup()
        self._end = self._end or Called("killed", message="the program was closed")
        self._drop_store()

    def call(
        self,
        function: str,
        arguments: Sequence[Any] = (),
        seconds: float | None = None,
        handles: Sequence[int] = (),
        at_reply: Callable[[], None] | None = None,
    ) -> Called:
        """Call a function of the module."""
        if self._end is None and self._worked():
            self._end = Called("killed", message="it worked between two calls, when it had to stand still")
            self._process.kill()
        if self._end is not None:
            return self._end
        if len(handles) > (program_guest.MOST_HANDLES if self._store is not None else 0):
            raise SandboxError(f"{len(handles)} descriptors cannot be handed to a program in this sandbox")
        arrays: list[Any] = []
        token = secrets.token_hex(16)
        tree = values.pack(list(arguments), arrays)
        forms = values.forms_of(arrays)
        order: Header = {
            "token": token,
            "function": function,
            "arguments": tree,
            "arrays": forms,
            "handles": len(handles),
        }
        memory, body = self._lay_out(forms, arrays)
        seconds = self._limits.solve_seconds if seconds is None else seconds
        used = self._used
        self._resume()
        self._started = time.perf_counter()
        try:
            descriptors = [*([] if memory is None else [memory]), *handles]
            self._send(encode(order, body), descriptors, self._started + seconds)
            reply = self._receive(self._started + seconds)
            with reading():
                called = self._understand(*reply, token)
        except (OSError, ProtocolError) as error:
            called = self._end = self._ended(error, self._started + seconds, f"no answer within {seconds:g} seconds")
        finally:
            if memory is not None:
                os.ftruncate(memory, 0)
                os.close(memory)
        if self._end is None:
            try:
                if at_reply is not None:
                    at_reply()
            finally:
                self._pause()
            seconds_of_each = [total - used.get(each, 0.0) for each, total in self._used.items()]
            called = replace(called, processor_seconds=sum(seconds_of_each))
        return called

    def _load(self, module: str, store: int) -> None:
        """Say what to load, over which memory, and wait for it."""
        deadline = self._started + self._limits.setup_seconds
        try:
            self._send(encode({}), [store], deadline)
            if not self._receive(deadline)[0].get("shared"):
                # Where no descriptor goes through, arrays go as bytes.
                self._drop_store()
                self._reader = FrameReader(self._limits.file_bytes)
            # A child that has ended would take the processor time that it used along.
            self._send(encode({"module": module, "alone": self._limits.processes == 1}), [], deadline)
            reply, _ = self._receive(deadline)
            if not reply.get("loaded"):
                self._end = Called("error", message=_text(reply.get("message")), seconds=self._passed())
                self._process.kill()
                return
        except (OSError, ProtocolError) as error:
            why = f"{module} was not loaded within {self._limits.setup_seconds:g} seconds"
            self._end = self._ended(error, deadline, why)
            return
        self._pause()

    def _drop_store(self) -> None:
        if self._store is not None:
            os.close(self._store)
            self._store = None

    def _lay_out(self, forms: list[list[Any]], arrays: list[Any]) -> tuple[int | None, bytes]:
        """The arrays' bytes in memory of their own, or as the order's body."""
        spots, size = values.places(forms, sys.maxsize)
        if not size:
            return None, b""
        if self._store is None:
            body = bytearray(size)
            for (start, length), array in zip(spots, arrays, strict=True):
                body[start : start + length] = array.tobytes()
            return None, bytes(body)
        memory = _shared_memory(0)
        for (start, _), array in zip(spots, arrays, strict=True):
            values.write(memory, array, start)
        # The candidate may write to its own pages alone, and keep nothing here.
        _seal_writes(memory)
        return memory, b""

    def _send(self, data: bytes, descriptors: Sequence[int], deadline: float) -> None:
        channel = self._process.channel
        channel.settimeout(max(0.001, deadline - time.perf_counter()))
        sent = socket.send_fds(channel, [data], descriptors) if descriptors else channel.send(data)
        if sent < len(data):
            channel.sendall(data[sent:])

    def _receive(self, deadline: float) -> tuple[Header, bytes]:
        """The one frame that answers an order."""
        while True:
            self._process.channel.settimeout(max(0.001, deadline - time.perf_counter()))
            data = self._process.channel.recv(1 << 18)
            if not data:
                raise ConnectionResetError
            with reading():
                frames = self._reader.feed(data)
            if len(frames) > 1:
                raise ProtocolError("two answers to one call")
            if frames:
                return frames[0]

    def _understand(self, header: Header, body: bytes, token: str) -> Called:
        """A reply, as far as it can be believed."""
        check_fields(header, _REPLY)
        fields: dict[str, Any] = header
        if not secrets.compare_digest(fields["token"].encode(), token.encode()):
            raise ProtocolError("an answer to another call than this one")
        ended, forms = fields["ended"], fields.get("arrays", ())
        spots, size = values.places(forms, self._limits.file_bytes)
        if self._store is None and size != len(body):
            raise ProtocolError("arrays of another size than was said")
        arrays = [
            values.view(form, self._copy(start, length, body))
            for form, (start, length) in zip(forms, spots, strict=True)
        ]
        value = values.unpack(fields.get("value"), arrays)
        return Called(ended, value if ended == "ok" else None, self._passed(), _text(fields["message"]))

    def _copy(self, start: int, length: int, body: bytes) -> memoryview:
        if self._store is None:
            return memoryview(bytearray(body[start : start + length]))
        return values.read(self._store, start, length)

    def _ended(self, error: Exception, deadline: float, overdue: str) -> Called:
        """Why there is no answer; nothing of the program is left afterwards."""
        seconds = self._passed()
        if isinstance(error, ProtocolError):
            ended, why = "protocol", str(error)
        elif isinstance(error, TimeoutError) or time.perf_counter() >= deadline:
            ended, why = self._process.ended() or "timeout", overdue
        else:
            ended, why = self._last_word(), ""
        self._process.kill()
        if ended not in ("protocol", "timeout", *_WATCHED):
            ended, why = "killed", _explained(ended)
        printed = self._process.stderr().strip()
        return Called(ended, None, seconds, _text(f"{why}\n{printed[-_MESSAGE // 2 :]}".strip()))

    def _last_word(self) -> str:
        """How a process that has closed its channel ended, for which its sandbox may need a moment."""
        deadline = time.monotonic() + _LAST_WORD_SECONDS
        while (ended := self._process.ended()) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return ended or "it closed its channel"

    def _passed(self) -> float:
        return time.perf_counter() - self._started

    def _pause(self) -> None:
        if isinstance(self._process, Pausable) and not self._process.pause():
            self._end = Called("killed", message="its processes could not be stopped between two calls")
            self._process.kill()
        self._used = self._processor_seconds()

    def _processor_seconds(self) -> Mapping[int, float]:
        """Asked while it stands still, so that all that it does between two pauses counts for a call."""
        return self._process.processor_seconds() if isinstance(self._process, Pausable) else {}

    def _worked(self) -> bool:
        """Whether a process worked, came or went since the pause: of a sum, one that ends would take another's work."""
        now, before = self._processor_seconds(), self._used
        return now.keys() != before.keys() or any(now[each] - before[each] > _AWAKE_SECONDS for each in now)

    def _resume(self) -> None:
        if isinstance(self._process, Pausable):
            self._process.resume()


@runtime_checkable
class Pausable(Protocol):
    """A sandbox's process that can be made to stand still, with all that it started."""

    def pause(self) -> bool:
        """Whether everything in it stands still now. What has ended does."""

    def resume(self) -> None: ...

    def processor_seconds(self) -> Mapping[int, float]:
        """Seconds of a processor that each of its processes has used, by the number that the host knows it by."""


def _shared_memory(size: int) -> int:
    """Memory without a name, of a size that only this process could change."""
    memory = os.memfd_create("sia-arrays", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if size:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return memory


def _seal_writes(memory: int) -> None:
    """Let nobody write to it any more. The kernel is busy while it still holds a page itself, as it may briefly."""
    for tries_left in reversed(range(_SEAL_TRIES)):
        try:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not tries_left:
                raise SandboxError(f"arrays cannot be handed over: {error.strerror}") from error


def _explained(ended: str) -> str:
    """``exit 139`` as what it stands for."""
    kind, _, number = ended.partition(" ")
    if kind == "exit" and number.isdigit() and int(number) > _SIGNALLED:
        kind, number = "signal", str(int(number) - _SIGNALLED)
    if kind == "signal" and number.isdigit():
        return f"its process was killed by signal {number} ({signal.strsignal(int(number))})"
    return f"its process ended before it answered: {ended}"


def _text(value: object) -> str:
    return (value if isinstance(value, str) else "").encode(errors="replace").decode()[:_MESSAGE]
