"""Helpers of the attacks. This file lies beside each attack, runs where it runs, and does not import SIA.

Whatever an attack leaves behind ends by itself within ``LINGER`` seconds, so that an
attack that is not stopped costs its machine little.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "targets.json")) as _file:
    TARGETS: dict[str, Any] = json.load(_file)

LINGER = 8
LIBC = ctypes.CDLL(None, use_errno=True)


def succeeded(how: str) -> dict[str, str]:
    """The answer of an attack that was not stopped: believed, since it speaks against the sandbox."""
    return {"open": how}


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call's result; None where it is refused. An error in the attack itself is not caught."""
    try:
        return function(*arguments)
    except OSError:
        return None


def read(path: str) -> str | None:
    """A file's text, or None."""

    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode("latin-1")
    except OSError:
        return None


def loot(paths: Any) -> list[str]:
    """The texts that can be read."""
    return [text for text in map(read, paths) if text]


def checked(result: int) -> int:
    """The result of a call of the C library's; OSError where it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def call(number: int, *arguments: Any) -> int:
    """A system call by its number."""
    return checked(LIBC.syscall(ctypes.c_long(number), *arguments))


def wear_mark() -> None:
    """Take the name by which the host finds what is left of this attack, and end after a while, come what may."""
    LIBC.prctl(15, TARGETS["mark"].encode(), 0, 0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LINGER)


def linger() -> None:
    """Stay, deaf to whoever asks to leave. Never returns."""
    wear_mark()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def detach(work: Callable[[], None]) -> None:
    """Do some work in a process that its parents know nothing of."""
    child = os.fork()
    if child == 0:
        try:
            attempt(os.setsid)
            if os.fork() == 0:
                work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def others() -> Iterator[int]:
    """The processes that can be seen, beside this one."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            yield int(name)


def frame(header: Any, body: bytes = b"") -> bytes:
    """A frame as the process that runs a harness sends it."""
    text = json.dumps(header).encode()
    return struct.pack(">II", len(text), len(body)) + text + body


def done(body: bytes, **changes: Any) -> bytes:
    """The frame of a result."""
    return frame({"op": "done", "outcome": "ok", "message": "", "rewards": [], **changes}, body)


def send_later(frames: Iterable[bytes]) -> None:
    """From set-up: write these once the first instances are being solved."""
    everything = list(frames)

    def work() -> None:
        time.sleep(0.5)
        for data in everything:
            send_everywhere(data)

    threading.Thread(target=work, daemon=True).start()


def send_everywhere(data: bytes) -> None:
    """Write to every descriptor but the standard ones."""
    for descriptor in range(3, 1024):
        attempt(os.write, descriptor, data)


SHARE = 2 * TARGETS["limits"]["total_memory_bytes"] // TARGETS["limits"]["processes"]
"""Bytes that each process of a crowd keeps; together they exceed the limit a little."""


def crowd(work: Callable[[], tuple[Any, int]]) -> int:
    """Do the same in as many processes as there may be, and hold it for a while; the bytes that it comes to in all."""
    source, sink = os.pipe()
    for _ in range(TARGETS["limits"]["processes"] - 8):
        child = attempt(os.fork)
        if child is None:
            break
        if child == 0:
            try:
                wear_mark()
                load = work()
                os.write(sink, struct.pack("q", load[1]))
                signal.pause()
            finally:
                os._exit(0)
    mine = work()
    time.sleep(1.0)  # whoever counts it had time to
    os.set_blocking(source, False)
    sizes = attempt(os.read, source, 1 << 16) or b""
    return mine[1] + sum(int(each) for (each,) in struct.iter_unpack("q", sizes))


def kept(work: Callable[[], tuple[Any, int]]) -> Any:
    """The answer of an attack that keeps memory in the kernel: what it could keep, or how it got through."""
    size = crowd(work)
    return succeeded(f"kept {size >> 20} MB in the kernel") if size > TARGETS["limits"]["total_memory_bytes"] else size
