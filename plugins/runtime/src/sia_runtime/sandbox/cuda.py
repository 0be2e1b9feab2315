"""The parts of the host that CUDA programs need: the driver's nodes, and the files that the driver reads.

The driver's part in the kernel is large and takes any call from whoever may open its nodes: with
them a sandbox keeps its files, network and processes apart as ever, and the kernel less well.
"""

from __future__ import annotations

import os
import re
import stat

from sia_core.errors import SandboxError

READ = ("/sys/devices", "/sys/bus", "/sys/module")
"""Where the driver looks up processors, memory, the bus, and its own part in the kernel."""

_FOLDER = "/dev"
_NODES = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools)")


def nodes() -> list[str]:
    """The driver's device nodes. SandboxError where there are none."""
    paths = [f"{_FOLDER}/{name}" for name in sorted(os.listdir(_FOLDER)) if _NODES.fullmatch(name)]
    devices = [path for path in paths if stat.S_ISCHR(os.stat(path).st_mode)]
    if not devices:
        raise SandboxError(f"no CUDA device can be handed out: {_FOLDER} has none of the NVIDIA driver's nodes")
    return devices


def refusal(sandbox: str) -> SandboxError:
    """The answer of a sandbox that hands out no device."""
    return SandboxError(f"the sandbox {sandbox!r} hands out no CUDA device; those that do: namespaces, bwrap")
