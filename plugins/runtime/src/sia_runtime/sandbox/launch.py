"""The launcher, which runs first in a new sandbox: it builds the isolation around itself, then runs the program.

It is a fork of a template. Two processes come of it. The supervisor stays outside,
runs none of the program, and kills everything when the host asks, closes its end of
the control socket or dies. Its child seals itself in and calls ``main(channel, world)``
of the program, in the interpreter that is already running.

The standard library alone, and of that only what starts fast.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import ModuleType

from sia_runtime.sandbox import landlock, linux, newroot, seccomp, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOTSTRAP = """
import sys
def package(name, path):
    module = sys.modules[name] = type(sys)(name)
    module.__path__ = [path]
package("sia_runtime", sys.argv[1])
package("sia_runtime.sandbox", sys.argv[1] + "/sandbox")
from sia_runtime.sandbox.template import main
main(int(sys.argv[2]))
"""
"""The script that starts a template: the packages without their __init__, which import more than is needed."""

FIRST_USER = 0x70000000
"""Users of sandboxes, one each, are numbered from here, by the process id of the supervisor."""

DEVICES = tuple(f"/dev/{name}" for name in newroot.DEVICES)

_USERS = 1 << 22
_INNER_USER = 1000
_REAP_MS = 100
_KILL_SECONDS = 5.0


def can_be_other_user(*, mounting: bool) -> bool:
    """Whether this process may become a user that nobody else is, and mount before that if it has to."""
    capabilities = [linux.CAP_SETUID, linux.CAP_SETGID, linux.CAP_SETPCAP, linux.CAP_CHOWN, linux.CAP_KILL]
    capabilities += [linux.CAP_SYS_ADMIN] if mounting else []
    mask = sum(1 << capability for capability in capabilities)
    return linux.capabilities() & mask == mask and linux.maps_user(FIRST_USER, _USERS)


class World:
    """A program's view of its sandbox.

    ``mounts`` gives each mount's path by its name, ``scratch`` is the writable
    folder, and ``port`` is where the host listens on loopback, if it does. ``devices`` may be driven.
    """

    def __init__(
        self,
        mounts: Mapping[str, str],
        scratch: str,
        readable: Iterable[str],
        port: int | None,
        devices: Iterable[str],
    ) -> None:
        self.mounts, self.scratch, self.port = mounts, scratch, port
        self._readable, self._devices = tuple(readable), tuple(devices)
        self._group_filter = seccomp.group_filter(linux.machine())
        self._settled_filter = seccomp.settled_filter(linux.machine())
        self._lone_filter = seccomp.lone_filter(linux.machine())
        self._landlock = landlock.abi() > 0

    def rules(self, scratch: str, readable: Iterable[str] = ()) -> int | None:
        """Rules for :meth:`confine`, to be made before :meth:`settle`, and before a fork, where it costs a tenth."""
        if not self._landlock:
            return None
        paths = [*self._readable, *readable]
        return landlock.ruleset(paths, [scratch], newroot.WRITABLE_DEVICES, port=self.port, driven=self._devices)

    def confine(self, rules: int | None) -> None:
        """Confine this process further: it writes below one scratch folder alone and stays in its process group.

        Nor can it signal a process outside of this confinement, where the kernel knows how to refuse that.
        """
        if rules is not None:
            landlock.enforce(rules)
        seccomp.install(self._group_filter)

    def settle(self) -> None:
        """Let this process and its descendants make no more rules: to be called before code of a harness runs."""
        seccomp.install(self._settled_filter)

    def stay_alone(self) -> None:
        """Let this process start no other one, and no thread."""
        seccomp.install(self._lone_filter)


def main(control: int, channel: int, ended: int, parent: int) -> None:
    """Read the configuration from ``control``, build the sandbox, and run the program in it.

    ``ended`` is told how it ended, and ``parent`` is the process that it must not outlive.
    """
    try:
        config = read_config(control)
        program = load(config["program"])
        program_fork(config, program, (control, channel, ended), parent)
    except BaseException as error:
        report(control, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)


def read_config(control: int) -> dict[str, Any]:
    """The host's line; where it hangs up instead, nobody waits for this process any more."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(control, 1 << 16)
        if not data:
            os._exit(1)
        line += data
    config: dict[str, Any] = json.loads(line)
    return config


def program_fork(config: dict[str, Any], program: ModuleType, ends: tuple[int, int, int], parent: int) -> None:
    """Split into the supervisor, which never returns, and the sealed process, which runs the program."""
    control, channel, ended = ends
    namespaced = config["kind"] == "namespaces"
    if namespaced:
        _unshare(config["drop_user"])
    else:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    listener = _listen() if config.get("listener") else None
    port: int | None = None if listener is None else listener.getsockname()[1]
    user = FIRST_USER + os.getpid() if config["drop_user"] else None
    alive, supervisor_lives = os.pipe()
    child = os.fork()
    if child:
        os.close(channel)
        os.close(alive)
        if listener is not None:
            listener.close()
        _supervise(control, child, ended, parent, config.get("folder"))
    os.close(supervisor_lives)
    os.close(ended)
    _die_with_supervisor(alive)
    readable = (_enter_namespaces if namespaced else _enter_process)(config, user, port)
    _die_with_supervisor(alive)  # again: a change of user takes the first one back
    os.close(alive)
    own_user = namespaced or user is not None
    network, cuda = port is not None, bool(config["devices"])
    seccomp.install(system_call_filter(own_files=namespaced, own_user=own_user, network=network, cuda=cuda))
    world = World(config["mounts"], config["scratch"], readable, port, config["devices"])
    report(control, {}, () if listener is None else [listener.detach()])
    forget_core()
    os.close(control)
    config.clear()  # a harness can walk up the frames, and in there is where on the host its views lie
    program.main(channel, world)
    os._exit(0)


@lru_cache(maxsize=4)
def load(path: str) -> ModuleType:
    """The program as a module, from its cached byte code where there is one."""
    from importlib.machinery import SourceFileLoader

    module = ModuleType("sia_program")
    module.__file__ = path
    code = SourceFileLoader("sia_program", path).get_code("sia_program")
    assert code is not None
    exec(code, module.__dict__)
    return module


@lru_cache(maxsize=4)
def system_call_filter(*, own_files: bool, own_user: bool, network: bool, cuda: bool = False) -> bytes:
    """The filter of :func:`seccomp.sandbox_filter`, made once for many sandboxes."""
    machine = linux.machine()
    return seccomp.sandbox_filter(machine, own_files=own_files, own_user=own_user, network=network, cuda=cuda)


def _listen() -> Any:
    from sia_runtime.sandbox import loopback

    return loopback.listen()


def _unshare(privileged: bool) -> None:
    if privileged:
        linux.unshare(linux.NAMESPACES)
    else:
        unshare_user(linux.NAMESPACES)


def unshare_user(namespaces: int) -> None:
    """New namespaces that belong to a new user namespace, with no user in it but this one."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(namespaces | linux.CLONE_NEWUSER)
    for name, line in (
        ("uid_map", f"{_INNER_USER} {user} 1"),
        ("setgroups", "deny"),
        ("gid_map", f"{_INNER_USER} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as target:
            target.write(line)


def _enter_namespaces(config: dict[str, Any], user: int | None, port: int | None) -> list[str]:
    """Everything but the system call filter; what may be read inside."""
    owner = _INNER_USER if user is None else user
    owned = {"size": config["scratch_bytes"], "user": owner}
    newroot.enter(config["views"], config["links"], config["folders"], config["covered"], config["devices"], **owned)
    os.umask(0o077)
    linux.drop_bounding_set()
    if user is None:
        linux.set_capabilities(0)
    else:
        linux.become(user, user, keep=kept(config))
    check_readable(config["mounts"])
    readable = newroot.readable()
    limit(config, readable, [], port)
    return readable


def kept(config: Mapping[str, Any]) -> int:
    """The capability to read what is its owner's alone, where a sandbox shows such files to another user.

    They may lie in folders that only root can enter, or root's umask may have closed them.
    Landlock bounds what is read by it; where there is no Landlock it is not kept.
    """
    return 1 << linux.CAP_DAC_READ_SEARCH if config.get("reads_all") and landlock.abi() else 0


def check_readable(mounts: Mapping[str, str]) -> None:
    """PermissionError for a mount that the sandbox's own user cannot read."""
    for path in mounts.values():
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except PermissionError:
            why = "cannot be read by the sandbox's own user; make its files readable"
            raise PermissionError(f"mount {path} {why}") from None


def _enter_process(config: dict[str, Any], user: int | None, port: int | None) -> list[str]:
    """Everything but the system call filter; what may be read inside."""
    os.umask(0o077)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # as process 1 of a namespace does, so that orphans are reaped
    if user is not None:
        os.chown(config["scratch"], user, user)
        linux.drop_bounding_set()
        linux.become(user, user, keep=kept(config))
    readable: list[str] = config["readable"]
    limit(config, config["shown"], config["listable"], port)
    return readable


def limit(config: dict[str, Any], readable: list[str], listable: list[str], port: int | None) -> None:
    """Resource limits and Landlock."""
    for name, value in config["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    os.chdir(config["scratch"])
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if landlock.abi():
        rules = landlock.ruleset(
            readable, [config["scratch"]], newroot.WRITABLE_DEVICES, listable, port, config["devices"]
        )
        landlock.enforce(rules)
        os.close(rules)
    sys.path.extend(path for path in config["sys_path"] if path not in sys.path)


def forget_core() -> None:
    """Leave nothing of the core to import: its modules stay in use, and have no name any more."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "sia_runtime"]:
        del sys.modules[name]
    sys.argv[:] = sys.orig_argv[:] = ["sandbox"]


def _die_with_supervisor(alive: int) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:
        os._exit(1)


def _supervise(control: int, child: int, ended: int, parent: int, folder: str | None) -> None:
    """Wait until the child ends or the host has gone, kill what is left, and tell how the child ended.

    A ``folder`` on the host's disk is removed here, as the host may be gone; where
    there is none, a namespace ends with the child and takes everything with it.
    """
    handle = os.pidfd_open(child)

    def kill(*_: object) -> None:
        with suppress(ProcessLookupError):  # at any moment, also after it was waited for
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        kill()
    events = select.poll()
    events.register(control, select.POLLIN)
    events.register(handle, select.POLLIN)
    status = None
    while status is None:
        if control in (fd for fd, _ in events.poll(_REAP_MS)):
            kill()
            status = os.waitpid(child, 0)[1]
        else:
            status = _reap(child)
    if folder is not None:
        tree.kill_descendants(os.getpid(), _KILL_SECONDS)
        with suppress(OSError):  # what outlived the kill may still be writing there
            tree.remove(folder)
    os.write(ended, str(status).encode())
    os._exit(0)


def _reap(child: int) -> int | None:
    """Reap what has ended, orphans included; the child's status if it is among them."""
    status = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == child:
                status = ended[1]
    except ChildProcessError:
        pass
    return status


def report(control: int, what: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
    """Send the host a line, and hand it descriptors, which are closed here."""
    line = json.dumps(what).encode() + b"\n"
    if not descriptors:
        os.write(control, line)
        return
    from sia_runtime.sandbox import handing

    handing.hand_over(control, line, descriptors)
