"""The sandbox ``namespaces``: a file system, a network and processes of its own, made without any helper program."""

from __future__ import annotations

from collections.abc import Mapping

from sia_core.sandbox import launch, layout, newroot
from sia_core.sandbox.running import Running, resource_limits
from sia_core.types import GUARANTEES, SandboxSpec

_INSIDE = "/sia"


class Namespaces:
    """Linux namespaces, with rlimits, Landlock and a system call filter inside of them."""

    name = "namespaces"
    guarantees = frozenset(GUARANTEES)

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why."""
        from sia_core.sandbox.probes import attack

        return attack(self)

    def start(self, spec: SandboxSpec) -> Running:
        """Start a program; SandboxError where that fails."""
        layout.check_mounts(spec.mounts)
        system = layout.system()
        drop_user = launch.can_be_other_user(mounting=True)
        views = [[path, path] for path in system.paths]
        mounts = {mount.name: f"{_INSIDE}/{mount.name}" for mount in spec.mounts}
        for mount in spec.mounts:
            views += layout.views_of(mount.host, mounts[mount.name], as_other_user=drop_user)
        views += [[str(path), f"{_INSIDE}/lib/{path.name}"] for path in spec.libraries]
        config = {
            "kind": self.name,
            "program": str(spec.program),
            "drop_user": drop_user,
            "views": views,
            "links": [[target, link] for link, target in system.links.items()],
            "folders": [f"{_INSIDE}/lib", *(mounts[mount.name] for mount in spec.mounts if mount.host.is_dir())],
            "covered": system.hidden,
            "mounts": mounts,
            "scratch": newroot.SCRATCH,
            "scratch_bytes": spec.limits.scratch_bytes,
            "sys_path": [f"{_INSIDE}/lib"],
            "listener": spec.listener,
            "limits": resource_limits(spec.limits, spec.limits.processes + 1),
        }
        return Running(config, spec.limits)
