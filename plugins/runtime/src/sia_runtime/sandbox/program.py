"""The program that runs one Python file in a sandbox, with standard input, and returns what it printed."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from sia_runtime.sandbox.frames import FrameReader, Header, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sia_runtime.sandbox.launch import World

_FLOOD = 16
_READ = 1 << 16
_EVERY_DESCRIPTOR = 2**31 - 1


class Output:
    """One stream of the program's: its first bytes are kept, the rest is counted."""

    def __init__(self, source: int, keep: int) -> None:
        self.source, self.data, self.printed, self.open = source, b"", 0, True
        self._keep = keep
        os.set_blocking(source, False)

    def collect(self) -> None:
        """Take what is there now."""
        try:
            while self.open and not self.flooded():
                part = os.read(self.source, _READ)
                self.open = bool(part)
                self.printed += len(part)
                self.data += part[: max(0, self._keep - len(self.data))]
        except BlockingIOError:
            pass

    def flooded(self) -> bool:
        return self.printed > _FLOOD * self._keep


def main(channel: int, world: World) -> None:
    """Run what the host's one frame says, and send one frame back."""
    reader = FrameReader(sys.maxsize)
    frames: list[tuple[Header, bytes]] = []
    while not frames:
        frames = reader.feed(os.read(channel, _READ))
    order: dict[str, Any] = frames[0][0]
    stdin = frames[0][1]
    (source, feed), (out, printed), (err, complained) = (os.pipe() for _ in range(3))
    rules = world.rules(world.scratch)
    pid = os.fork()
    if pid == 0:
        world.confine(rules)
        for descriptor, number in ((source, 0), (printed, 1), (complained, 2)):
            os.dup2(descriptor, number)
        os.closerange(3, _EVERY_DESCRIPTOR)
        _become(world.mounts["files"], order["arguments"])
    for descriptor in (source, printed, complained):
        os.close(descriptor)
    outputs = [Output(out, order["output_bytes"]), Output(err, order["output_bytes"])]
    started = time.monotonic()
    ended = _attend(pid, feed, stdin, outputs, started + order["seconds"])
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    for output in outputs:
        output.collect()
    if ended == "ok" and os.WIFSIGNALED(status):
        ended = "killed"
    header: Header = {
        "ended": ended,
        "exit_code": os.waitstatus_to_exitcode(status) if ended == "ok" else None,
        "seconds": time.monotonic() - started,
        "stdout": len(outputs[0].data),
    }
    reply = memoryview(encode(header, outputs[0].data + outputs[1].data))
    while reply:
        reply = reply[os.write(channel, reply) :]


def _become(folder: str, arguments: list[str]) -> None:
    """Be the program: never returns."""
    import runpy
    import traceback

    code: object = 0
    try:
        os.chdir(folder)
        sys.argv[:] = arguments
        sys.path.insert(0, folder)
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if stop.code is not None else 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                continue  # closed or replaced by the program
        os._exit(code & 0xFF if isinstance(code, int) else 1)


def _attend(pid: int, feed: int, stdin: bytes, outputs: list[Output], deadline: float) -> str:
    """Feed it and listen to it until it ends or has to be ended."""
    os.set_blocking(feed, False)
    handle = os.pidfd_open(pid)
    while (remaining := deadline - time.monotonic()) > 0:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if feed >= 0:
            poll.register(feed, select.POLLOUT)
        for output in outputs:
            if output.open:
                poll.register(output.source, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(remaining * 1000 + 1)}
        for output in outputs:
            output.collect()
        if any(output.flooded() for output in outputs):
            return "flood"
        if handle in ready:
            return "ok"
        if feed in ready:
            stdin = _feed(feed, stdin)
            if not stdin:
                os.close(feed)
                feed = -1
    return "timeout"


def _feed(feed: int, stdin: bytes) -> bytes:
    try:
        return stdin[os.write(feed, stdin) :]
    except BlockingIOError:
        return stdin
    except BrokenPipeError:
        return b""
