"""The launcher where another program has built the walls: drops what it was left, and seals the rest.

File system, network and processes are the sandbox's own already. The same limits,
Landlock rules and system call filter as in every other sandbox come on top. The
standard library alone.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from importlib import import_module
from types import ModuleType

from sia_runtime.sandbox import launch, linux, loopback, newroot, relay, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROGRAM = "sia_program"
"""The name of the program's module in the bundle."""


def main(control: int, channel: int) -> None:
    """Read the configuration, seal this process, and run the program, which the bundle holds."""
    try:
        config = launch.read_config(control)
        run(config, import_module(PROGRAM), control, channel)
    except BaseException as error:
        launch.report(control, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)


def run(config: dict[str, Any], program: ModuleType, control: int, channel: int) -> None:
    """Seal this process and be the program."""
    listener = loopback.listen() if config["listener"] else None
    scratch = os.open(config["scratch"], os.O_RDONLY | os.O_DIRECTORY)
    if config["drop_user"]:
        user = launch.FIRST_USER + config["supervisor"]
        os.chown(config["scratch"], user, user)
        linux.drop_bounding_set()
        linux.become(user, user, keep=launch.kept(config))
    if select.select([control], [], [], 0)[0]:
        os._exit(1)  # the host has gone, perhaps before what stands around this could be told to go with it
    world = seal(config, None if listener is None else listener.getsockname()[1])
    launch.report(control, {}, [scratch, *([] if listener is None else [listener.detach()])])
    os.close(control)
    be(program, channel, world)


def seal(config: dict[str, Any], port: int | None = None) -> launch.World:
    """Limits, Landlock and the system call filter, with no capability left but to read what is shown."""
    os.umask(0o077)
    os.environ.pop("PWD", None)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.set_capabilities(launch.kept(config))
    launch.check_readable(config["mounts"])
    readable = config.get("readable") or newroot.readable()
    launch.limit(config, readable, [], port)
    network, cuda = port is not None, bool(config["devices"])
    seccomp.install(launch.system_call_filter(own_files=True, own_user=True, network=network, cuda=cuda))
    return launch.World(config["mounts"], config["scratch"], readable, port, config["devices"])


def be(program: ModuleType, channel: int, world: launch.World) -> None:
    """Be the program: never returns."""
    launch.forget_core()
    del sys.meta_path[0], sys.modules[PROGRAM]
    program.main(channel, world)
    os._exit(0)


def contained(source: int, sink: int) -> None:
    """Be the first process of a container, whose only roads out are its standard streams.

    It passes on what goes between the host and the program, which is its child, and
    ends when the host's end does: everything in the container ends with it.
    """
    try:
        config = launch.read_config(source)
        program = import_module(PROGRAM)
        config["readable"].append(os.path.realpath(os.path.dirname(os.__file__)))
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # nobody inside, of the same user, reads this process or traces it
        ours, theirs = socket.socketpair()
        ready, sealed = os.pipe()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.close(ready)
            os.dup2(2, 1)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            _be_contained(config, program, theirs.detach(), sealed)
        theirs.close()
        os.close(sealed)
        status = launch.read_config(ready)
        os.write(sink, json.dumps(status).encode() + b"\n")
        relay.pass_on(source, sink, ours)
        os._exit(relay.status_of(pid))
    except BaseException as error:
        launch.report(sink, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)


def _be_contained(config: dict[str, Any], program: ModuleType, channel: int, sealed: int) -> None:
    try:
        world = seal(config)
    except BaseException as error:
        launch.report(sealed, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    launch.report(sealed, {})
    os.close(sealed)
    be(program, channel, world)
