"""The sandbox ``process``: for machines that allow no namespaces. It guarantees less, and says so."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sia_runtime.sandbox import cuda, landlock, launch, layout, tree
from sia_runtime.sandbox.contract import GUARANTEES, SandboxSpec
from sia_runtime.sandbox.own_folder import own_folder, sweep
from sia_runtime.sandbox.process_handle import Running, resource_limits
from sia_runtime.sandbox.warm import Templates

_LACKS = {
    "processes": "without a process namespace, a program that forks without end may outlive the kill",
    "total_disk": "files that are deleted but still open are not counted",
}
_OWN_TASKS = 2
"""The supervisor, and the thread that watches it."""

_NO_LANDLOCK = "this kernel has no Landlock, so every file that others may read can be read"


class Process:
    """Landlock, a system call filter, rlimits, a clean environment, and its own user where root starts it."""

    name = "process"

    def __init__(self) -> None:
        self._templates = Templates()
        self.guarantees = frozenset(GUARANTEES) - self._lacks().keys()

    def _lacks(self) -> dict[str, str]:
        return _LACKS if landlock.abi() else {**_LACKS, "files": _NO_LANDLOCK}

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why."""
        from sia_runtime.sandbox.probes import attack

        return {**attack(self), **self._lacks()}

    def start(self, spec: SandboxSpec) -> Running:
        """Start a program; SandboxError where that fails."""
        if spec.cuda:
            raise cuda.refusal(self.name)
        layout.check_mounts(spec.mounts)
        drop_user = launch.can_be_other_user(mounting=False)
        sweep()
        own = own_folder(enterable=drop_user and not landlock.abi())  # the other user cannot read past modes there
        template = self._templates.get(
            {
                "stage": None,
                "folder": f"{own}/lib-",
                "links": [[str(path), path.name] for path in spec.libraries],
                "imports": list(spec.imports),
                "filter": {"own_files": False, "own_user": drop_user},
            }
        )
        folder = Path(tempfile.mkdtemp(dir=own))
        try:
            config = self._config(spec, folder, template.sys_path, drop_user=drop_user)
        except BaseException:
            tree.remove(str(folder))
            raise
        return Running(config, spec.limits, partial(template.start, str(spec.program)), folder)

    def _config(self, spec: SandboxSpec, folder: Path, sys_path: list[str], *, drop_user: bool) -> dict[str, object]:
        folder.chmod(0o711)
        scratch = folder / "scratch"
        scratch.mkdir(mode=0o700)
        system = layout.system()
        own = [*sys_path, *(str(path.resolve()) for path in (*spec.libraries, *(mount.host for mount in spec.mounts)))]
        views = [each for path in system.paths for each in layout.without(path, system.hidden)]
        return {
            "kind": self.name,
            "program": str(spec.program),
            "drop_user": drop_user,
            "reads_all": drop_user,
            "mounts": {mount.name: str(mount.host.resolve()) for mount in spec.mounts},
            "folder": str(folder),
            "scratch": str(scratch),
            "readable": [*system.paths, *own, *launch.DEVICES],
            "shown": [*views, *own, *launch.DEVICES],
            "devices": [],
            "listable": [os.path.dirname(path) for path in system.hidden],
            "sys_path": sys_path,
            "limits": resource_limits(spec.limits, spec.limits.processes + 1 + (0 if drop_user else _user_tasks())),
        }


def _user_tasks() -> int:
    """How many processes and threads this user will run besides the program's: the kernel counts them all."""
    count = _OWN_TASKS
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{process}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{process}/task"))
        except OSError:
            continue  # it has just ended
    return count
