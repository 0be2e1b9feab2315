"""The sandbox ``bwrap``: the walls are bubblewrap's, and everything of ``process`` stands inside of them.

For machines that let bubblewrap make user namespaces and other programs not, as a
profile of AppArmor may say.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from sia_core.errors import SandboxError
from sia_runtime.sandbox import bundle, launch, layout, newroot
from sia_runtime.sandbox.contract import GUARANTEES, SandboxSpec
from sia_runtime.sandbox.process_handle import Running, resource_limits
from sia_runtime.sandbox.solving import ENVIRONMENT
from sia_runtime.sandbox.starting import FLAGS, Supervisor, interpreter, start_command

_ALWAYS = ("--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL")
_AS_ANY_USER = ("--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000")
_KEPT_UNTIL_SEALED = ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
"""Capabilities that root keeps until the launcher has changed to an unused user."""

_READS_ALL = "CAP_DAC_READ_SEARCH"

_OWN_PROCESSES = 2
"""Bubblewrap's first process of the namespace, which reaps, and the one that runs the program."""

_NO_BYTES = "4096"
_SIGNALLED = 128
_LAST_WORD_SECONDS = 1.0


class Bubblewrap:
    """Bubblewrap, with rlimits, Landlock and a system call filter inside of it."""

    name = "bwrap"
    guarantees = frozenset(GUARANTEES)

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why."""
        from sia_runtime.sandbox.probes import attack

        return attack(self)

    def start(self, spec: SandboxSpec) -> Running:
        """Start a program; SandboxError where that fails."""
        binary = shutil.which("bwrap")
        if binary is None:
            raise SandboxError("the program bwrap is not installed: apt-get install bubblewrap, or your system's way")
        drop_user = launch.can_be_other_user(mounting=True)
        inside = layout.inside(spec, as_other_user=drop_user)
        walls = [binary, *_walls(inside, spec.limits.scratch_bytes, drop_user=drop_user), "--", interpreter(), *FLAGS]
        config = {
            "kind": self.name,
            "drop_user": drop_user,
            "reads_all": inside.private,
            "mounts": inside.mounts,
            "scratch": newroot.SCRATCH,
            "sys_path": [layout.LIBRARIES],
            "listener": spec.listener,
            "devices": inside.devices,
            # Bubblewrap's first process stays root's where the launcher becomes another user.
            "limits": resource_limits(spec.limits, spec.limits.processes + _OWN_PROCESSES - drop_user, cuda=spec.cuda),
        }

        def start(control: int, channel: int, output: int) -> Supervisor:
            command = [*walls, bundle.BOOTSTRAP, str(control), str(channel)]
            return start_command(_Process, command, (control, channel), output)

        watched = replace(spec.limits, processes=spec.limits.processes + _OWN_PROCESSES - 1)
        return Running(config, watched, start, preface=bundle.bundle(spec.program))


class _Process(subprocess.Popen[bytes]):
    """Bubblewrap as a process: it has to be told to end, and tells signals by 128 and their number."""

    def open_handle(self) -> int:
        return os.pidfd_open(self.pid)

    def hang_up(self, channel: socket.socket) -> None:
        """End it, but where the program inside has closed its channel let bubblewrap tell how it ended."""
        with suppress(OSError):
            channel.setblocking(False)
            if channel.recv(1, socket.MSG_PEEK) == b"":
                with suppress(subprocess.TimeoutExpired):
                    self.wait(_LAST_WORD_SECONDS)
        self.kill()

    def poll(self) -> int | None:
        code = super().poll()
        return code if code is None or code <= _SIGNALLED else _SIGNALLED - code


def _walls(inside: layout.Inside, scratch_bytes: int, *, drop_user: bool) -> list[str]:
    """Bubblewrap's arguments. Root's user namespace is left out: in one there would be no other user to become."""
    walls = list(_ALWAYS)
    for variable, value in ENVIRONMENT.items():
        walls += ["--setenv", variable, value]
    if drop_user:
        walls.remove("--unshare-all")
        capabilities = (*_KEPT_UNTIL_SEALED, *([_READS_ALL] if inside.private else []))
        walls += [f"--unshare-{each}" for each in ("pid", "net", "ipc", "uts", "cgroup-try")]
        walls += [word for each in capabilities for word in ("--cap-add", each)]
    else:
        walls += _AS_ANY_USER
    # What bubblewrap makes on the way to a view, only its owner may enter.
    views = [*inside.views, *([] if inside.devices else [[layout.PROCESSOR, layout.PROCESSOR]])]
    on_the_way = {str(parent) for _, path in (*views, *inside.links) for parent in PurePosixPath(path).parents}
    for folder in [*sorted(on_the_way - {"/"}), *inside.folders, "/dev"]:
        walls += ["--dir", folder]
    for target, link in inside.links:
        walls += ["--symlink", target, link]
    for source, target in views:
        walls += ["--ro-bind", source, target]
    for name in (*launch.DEVICES, *inside.devices):
        walls += ["--dev-bind", name, name]
    # A device's driver reads about its own process there; without it, nothing else is needed of /proc.
    walls += ["--proc", "/proc"] if inside.devices else []
    for covered in layout.system().hidden:
        walls += ["--size", _NO_BYTES, "--tmpfs", covered, "--remount-ro", covered]
    walls += ["--perms", "0700", "--size", str(scratch_bytes), "--tmpfs", newroot.SCRATCH]
    return [*walls, "--remount-ro", "/", "--chdir", "/"]
