"""A process that has imported what harnesses require, and forks a launcher whenever its owner asks.

It holds no label, no key, no harness and no environment of the owner's: it is a fresh
interpreter in which nothing but installed distributions ran. It ends with its owner,
and what it forked with it.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
from contextlib import suppress

from sia_runtime.sandbox import launch, linux, newroot, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OF_PROGRAMS = ("frames", "forks", "solving", "loopback", "handing", "values")
_PATH_BYTES = 4096
_USED_BY_PROGRAMS = ("importlib.util", "random", "traceback")


def main(owner: int) -> None:
    """Prepare as the owner's line says, tell it, and serve."""
    config = launch.read_config(owner)
    os.umask(0o022)  # another user goes through the folders that a new root is made of
    try:
        library, sys_path = _show_libraries(config)
        sys.path.extend(sys_path)
        for name in (*(f"sia_runtime.sandbox.{each}" for each in _OF_PROGRAMS), *_USED_BY_PROGRAMS):
            importlib.import_module(name)
        before = _shared()
        for name in config["imports"]:
            with suppress(Exception):  # the harness will import it again, and see
                importlib.import_module(name)
        _look_at_the_processor()
        for network in (False, True):
            launch.system_call_filter(network=network, **config["filter"])
        gc.collect()
        gc.freeze()
        if config["imports"]:
            linux.collapse_memory()
        ready = {"shares": sorted(_shared() - before), "sys_path": sys_path}
    except BaseException as error:
        launch.report(owner, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    launch.report(owner, ready)
    config.clear()
    serve(owner, library)


def _look_at_the_processor() -> None:
    """PyTorch asks /proc once which instructions there are. In a sandbox it would find none, and fail in float16."""
    if "torch" in sys.modules:
        with suppress(Exception):
            sys.modules["torch"].backends.cpu.get_cpu_capability()


def _show_libraries(config: dict[str, Any]) -> tuple[Library | None, list[str]]:
    """Put the libraries where the sandbox will have them, and say what to import from."""
    if config["stage"] is not None:
        if not config["privileged"]:
            launch.unshare_user(0)
        newroot.stage(config["stage"])
        return None, config["sys_path"]
    if not config["links"]:
        return None, []
    library = Library(config["folder"], config["links"])
    return library, [library.path]


def _shared() -> set[str]:
    """The state that forks of this process would share: threads' locks, descriptors, children, memory."""
    this = "/proc/self"
    state = {f"thread {name}" for name in os.listdir(f"{this}/task")}
    for name in os.listdir(f"{this}/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            state.add(f"descriptor {name} {os.readlink(f'{this}/fd/{name}')}")
    with open(f"{this}/task/{os.getpid()}/children") as children:
        state |= {f"process {pid}" for pid in children.read().split()}
    with open(f"{this}/maps") as maps:
        return state | {f"memory {line.split()[0]}" for line in maps if line.split()[1] in ("rw-s", "-w-s", "rwxs")}


class Library:
    """A folder of the host's with links to libraries; locked, so that a sweep can tell it from one left behind."""

    def __init__(self, prefix: str, links: list[list[str]]) -> None:
        self._folder = prefix + os.urandom(8).hex()
        self.path = f"{self._folder}/lib"
        os.makedirs(self.path)
        self.lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        for target, name in links:
            os.symlink(target, f"{self.path}/{name}")

    def remove(self) -> None:
        tree.remove(self._folder)


def serve(owner: int, library: Library | None) -> None:
    """Fork until the owner hangs up. A fork's status is not waited for: it tells that itself."""
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    this = os.getpid()
    with socket.socket(fileno=owner) as end:
        while True:
            program, descriptors, _, _ = socket.recv_fds(end, _PATH_BYTES, 4)
            if not program:
                if library is not None:
                    library.remove()
                os._exit(0)
            with suppress(Exception):  # what is wrong with it the fork tells, to whom it concerns
                launch.load(program.decode())
            pid = os.fork()
            if pid == 0:
                end.close()
                if library is not None:
                    os.close(library.lock)
                _be_launcher(this, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            end.sendall(pid.to_bytes(4, "big"))


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _be_launcher(parent: int, control: int, channel: int, output: int, ended: int) -> None:
    """The new process: never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        launch.main(control, channel, ended, parent)
    finally:
        os._exit(1)
