"""The program that probes run inside of a sandbox. It tries to get out and reports how far it came.

What it reports is believed only where it speaks against the sandbox.
"""

from __future__ import annotations

import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sia_runtime.sandbox.launch import World

_ALLOWED = ("PYTHON", "LANG", "LC_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_")
_FILES, _FILE_BYTES = 8, 512 * 1024


def main(channel: int, world: World) -> None:
    """Attack the targets that the host names, report, leave a daemon behind, and wait to be killed."""
    order: dict[str, Any] = json.loads(_read_line(channel))
    report = {
        "secret": _tried(_read, order["secret"]),
        "environ": _environment(order["host"]),
        "signalled": _tried(_signal, order["host"]),
        "filled": order["fill"] and _tried(_fill, world.scratch),
    }
    _tried(_write, order["written"])
    _tried(_reach, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", order["tcp"]))
    _tried(_reach, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", order["udp"]))
    for address in (order["unix"], "\0" + order["abstract"]):
        _tried(_reach, socket.AF_UNIX, socket.SOCK_STREAM, address)
    _tried(_leave_daemon)
    os.write(channel, json.dumps(report).encode() + b"\n")
    _sleep()


def _tried(attempt: Callable[..., object], *args: object) -> object:
    try:
        return attempt(*args)
    except Exception:
        return None


def _read_line(channel: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(channel, 65536)
    return line


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str) -> None:
    with open(path, "w") as file:
        file.write("written from inside")


def _environment(host: int) -> list[str]:
    """Variables that a sandbox has no business with: its own, and those of the process that started it."""
    names = [name for name in os.environ if not name.startswith(_ALLOWED)]
    for process in (host, os.getppid()):
        names += [f"/proc/{process}/environ"] if _tried(_read, f"/proc/{process}/environ") else []
    return names


def _signal(process: int) -> bool:
    os.kill(process, 0)
    return True


def _reach(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as connection:
        connection.settimeout(0.2)
        connection.connect(address)
        connection.send(b"reached")


def _fill(folder: str) -> bool:
    for number in range(_FILES):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(bytes(_FILE_BYTES))
    return True


def _leave_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        _sleep()


def _sleep() -> None:
    import signal

    while True:
        signal.pause()
