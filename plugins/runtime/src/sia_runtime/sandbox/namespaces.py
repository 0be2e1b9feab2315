"""The sandbox ``namespaces``: its own file system, network and processes, made without any helper program."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from sia_runtime.sandbox import launch, layout, newroot
from sia_runtime.sandbox.contract import GUARANTEES, SandboxSpec
from sia_runtime.sandbox.process_handle import Running, resource_limits
from sia_runtime.sandbox.warm import Templates


class Namespaces:
    """Linux namespaces, with rlimits, Landlock and a system call filter inside of them."""

    name = "namespaces"
    guarantees = frozenset(GUARANTEES)

    def __init__(self) -> None:
        self._templates = Templates()

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why."""
        from sia_runtime.sandbox.probes import attack

        return attack(self)

    def start(self, spec: SandboxSpec) -> Running:
        """Start a program; SandboxError where that fails."""
        drop_user = launch.can_be_other_user(mounting=True)
        inside = layout.inside(spec, as_other_user=drop_user)
        config = {
            "kind": self.name,
            "program": str(spec.program),
            "drop_user": drop_user,
            "reads_all": inside.private,
            "views": [*inside.views, *([] if inside.devices else [[layout.PROCESSOR, layout.PROCESSOR]])],
            "devices": inside.devices,
            "links": inside.links,
            "folders": inside.folders,
            "covered": layout.system().hidden,
            "mounts": inside.mounts,
            "scratch": newroot.SCRATCH,
            "scratch_bytes": spec.limits.scratch_bytes,
            "sys_path": [layout.LIBRARIES],
            "listener": spec.listener,
            # The supervisor is of the user namespace that it makes where it does not become another user.
            "limits": resource_limits(spec.limits, spec.limits.processes + 2 - drop_user, cuda=spec.cuda),
        }
        template = {
            "stage": [[str(path), f"{layout.LIBRARIES}/{path.name}"] for path in spec.libraries],
            "privileged": drop_user,
            "sys_path": [layout.LIBRARIES],
            "imports": list(spec.imports),
            "filter": {"own_files": True, "own_user": True},
        }
        return Running(config, spec.limits, partial(self._templates.get(template).start, str(spec.program)))
