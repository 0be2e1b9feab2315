"""What runs first where another program has built the walls: drops what it was left, and seals the rest.

File system, network and processes are the sandbox's own already. The same limits,
Landlock rules and system call filter as in every other sandbox come on top. The
standard library alone.
"""

from __future__ import annotations

import os
import select
import sys
from importlib import import_module
from types import ModuleType

from sia_core.sandbox import launch, linux, loopback, newroot, seccomp

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
    os.umask(0o077)
    os.environ.pop("PWD", None)  # there is no /proc here to read it from
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    listener = loopback.listen() if config["listener"] else None
    scratch = os.open(config["scratch"], os.O_RDONLY | os.O_DIRECTORY)
    if config["drop_user"]:
        user = launch.FIRST_USER + config["supervisor"]
        os.chown(config["scratch"], user, user)
        linux.drop_bounding_set()
        linux.become(user, user)
    else:
        linux.set_capabilities(0)
    if select.select([control], [], [], 0)[0]:
        os._exit(1)  # the host has gone, perhaps before what stands around this could be told to go with it
    launch.check_readable(config["mounts"])
    readable = newroot.readable()
    port = None if listener is None else listener.getsockname()[1]
    launch.limit(config, readable, [], port)
    seccomp.install(launch.system_call_filter(own_files=True, own_user=True, network=port is not None))
    world = launch.World(config["mounts"], config["scratch"], readable, port)
    launch.report(control, {}, [scratch, *([] if listener is None else [listener.detach()])])
    launch.forget_core()
    del sys.meta_path[0], sys.modules[PROGRAM]
    os.close(control)
    program.main(channel, world)
    os._exit(0)
