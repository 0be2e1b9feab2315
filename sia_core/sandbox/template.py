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

from sia_core.sandbox import launch, linux, newroot, tree

_OF_PROGRAMS = ("frames", "forks", "solving", "loopback", "handing")
_PATH_BYTES = 4096
_USED_BY_PROGRAMS = ("importlib.util", "random", "traceback")


def main(owner: int) -> None:
    """Prepare as the owner's line says, tell it, and serve."""
    config = launch.read_config(owner)
    try:
        folder = None
        if config["stage"] is None:
            folder = _library(config["folder"], config["links"]) if config["links"] else None
            sys_path = [f"{folder}/lib"] if folder else []
        else:
            sys_path = config["sys_path"]
            if not config["privileged"]:
                launch.unshare_user(0)
            newroot.stage(config["stage"])
        sys.path.extend(sys_path)
        for name in _OF_PROGRAMS:
            importlib.import_module(f"sia_core.sandbox.{name}")
        for name in (*_USED_BY_PROGRAMS, *config["imports"]):
            _import(name)
        for network in (False, True):
            launch.system_call_filter(network=network, **config["filter"])
        gc.collect()
        gc.freeze()
        if config["imports"]:
            linux.collapse_memory()
        ready = {"threads": len(os.listdir("/proc/self/task")), "sys_path": sys_path}
    except BaseException as error:
        launch.report(owner, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    launch.report(owner, ready)
    serve(owner, folder)


def _library(prefix: str, links: list[list[str]]) -> str:
    """A folder of the host's with links to libraries; locked, so that a sweep can tell it from one left behind."""
    folder = prefix + os.urandom(8).hex()
    os.makedirs(f"{folder}/lib", 0o755)
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)
    for target, name in links:
        os.symlink(target, f"{folder}/lib/{name}")
    return folder


def serve(owner: int, folder: str | None) -> None:
    """Fork until the owner hangs up. A fork's status is not waited for: it tells that itself."""
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    this = os.getpid()
    with socket.socket(fileno=owner) as end:
        while True:
            program, descriptors, _, _ = socket.recv_fds(end, _PATH_BYTES, 4)
            if not program:
                if folder is not None:
                    tree.remove(folder)
                os._exit(0)
            with suppress(Exception):  # what is wrong with it the fork tells, to whom it concerns
                launch.load(program.decode())
            pid = os.fork()
            if pid == 0:
                end.close()
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


def _import(name: str) -> None:
    """Import one module. What goes wrong is for the harness to see, which imports it again."""
    try:
        importlib.import_module(name)
    except Exception:
        return
