"""Which sandbox to use: the strongest one whose guarantees hold here, found out by attacking each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sia_core.cache import cache_folder
from sia_core.errors import SandboxError
from sia_runtime.sandbox.contract import GUARANTEES, REQUIRED_GUARANTEES, Sandbox
from sia_runtime.sandbox.starting import interpreter

_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "SIA_DOCKER_IMAGE")
_PROGRAMS = ("bwrap", "docker")
_STATUS = ("Uid", "Gid", "Groups", "Umask", "Cap", "NoNewPrivs", "Seccomp")
_SETTINGS = (
    "/proc/sys/kernel/random/boot_id",
    "/proc/self/uid_map",
    "/proc/self/cgroup",
    "/proc/self/limits",
    "/proc/self/attr/current",
    "/sys/kernel/security/lsm",
    "/sys/kernel/security/apparmor/profiles",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/kernel/unprivileged_userns_clone",
    *(f"/proc/sys/user/max_{kind}_namespaces" for kind in ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup")),
)
"""Settings that an administrator, a service manager or a security module may change between two runs."""


@dataclass(frozen=True)
class Examined:
    """A sandbox after its probe. ``lacks`` says for each guarantee that does not hold here, why."""

    sandbox: Sandbox
    lacks: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.sandbox.name

    @property
    def usable(self) -> bool:
        """Whether every guarantee that SIA asks for holds."""
        return not REQUIRED_GUARANTEES & self.lacks.keys()

    @property
    def starts(self) -> bool:
        """Whether it can be started here at all."""
        return self.lacks.keys() < set(GUARANTEES)


def examine(sandboxes: Sequence[Sandbox]) -> Iterator[Examined]:
    """Probe sandboxes, in their order. A result is remembered for this machine, kernel, interpreter and code."""
    for sandbox in sandboxes:
        place = cache_folder("sandbox") / f"{_key(sandbox)}.json"
        lacks = _remembered(place)
        if lacks is None:
            probed = sandbox.probe()
            missing = dict.fromkeys(set(GUARANTEES) - sandbox.guarantees, "the sandbox does not promise it")
            lacks = {name: ({**missing, **probed})[name] for name in sorted({*missing, *probed})}
            # A sandbox that cannot start may be able to tomorrow, when somebody has changed a setting.
            if lacks.keys() < set(GUARANTEES):
                _remember(place, lacks)
        yield Examined(sandbox, lacks)


def choose(sandboxes: Sequence[Sandbox], *, allow_weak: bool = False) -> Examined:
    """The first of ``sandboxes``, strongest first, whose required guarantees all hold.

    With ``allow_weak`` the first that starts at all will do, where none does.
    SandboxError names each one and what it lacks.
    """
    candidates = []
    for examined in examine(sandboxes):
        if examined.usable:
            return examined
        candidates.append(examined)
    for examined in candidates:
        if allow_weak and examined.starts:
            return examined
    raise SandboxError(_refusal(candidates))


def _refusal(candidates: Sequence[Examined]) -> str:
    lines = ["no sandbox here gives every guarantee that code written by a model needs:"]
    for examined in candidates:
        for why in dict.fromkeys(examined.lacks.values()):
            names = [name for name in examined.lacks if examined.lacks[name] == why and name in REQUIRED_GUARANTEES]
            if names:
                lines.append(f"  {examined.name}: {', '.join(names)}: {why}")
    weak = next((examined for examined in reversed(candidates) if examined.starts), None)
    if weak is not None:
        lines.append(f"to run with less than that: --sandbox {weak.name} --allow-weak-sandbox")
    else:
        lines.append("none of them starts; allow user namespaces on this machine, or run on another backend")
    return "\n".join(lines)


def _key(sandbox: Sandbox) -> str:
    """All that a probe's result may depend on."""
    whole = hashlib.sha256(repr((os.uname(), sys.version, interpreter(), sandbox.name)).encode())
    whole.update(repr([(name, os.environ.get(name)) for name in _VARIABLES]).encode())
    whole.update(repr([_mark(place) for place in (tempfile.gettempdir(), *map(shutil.which, _PROGRAMS))]).encode())
    for path in _SETTINGS:
        with suppress(OSError):
            whole.update(f"{path}\n".encode() + Path(path).read_bytes())
    with suppress(OSError):
        status = Path("/proc/self/status").read_text().splitlines()
        whole.update("".join(line for line in status if line.startswith(_STATUS)).encode())
    own = sys.modules[type(sandbox).__module__].__file__
    for source in [*sorted(Path(__file__).parent.glob("*.py")), *([Path(own)] if own else [])]:
        whole.update(source.read_bytes())
    return whole.hexdigest()[:32]


def _mark(place: str | None) -> tuple[object, ...]:
    """A folder, or a program: a file that was replaced or that gained a bit of its mode is another one."""
    if place is None or not os.path.exists(place):
        return (place,)
    about = os.stat(place)
    if stat.S_ISDIR(about.st_mode):
        return place, about.st_dev, about.st_mode, about.st_uid
    return place, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode, about.st_uid


def _remembered(place: Path) -> dict[str, str] | None:
    try:
        lacks = json.loads(place.read_bytes())["lacks"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # nothing there, or nothing that can be used: the probe runs again
    is_valid = isinstance(lacks, dict) and lacks.keys() <= set(GUARANTEES)
    return lacks if is_valid and all(isinstance(why, str) for why in lacks.values()) else None


def _remember(place: Path, lacks: Mapping[str, str]) -> None:
    with suppress(OSError):  # a read-only home costs a probe each time and nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=place.parent)
        with open(descriptor, "w") as file:
            json.dump({"lacks": lacks}, file)
        os.replace(temporary, place)
