"""Which of the host's files a sandbox shows: the interpreter and its libraries, and what a spec mounts."""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sia_core.errors import SandboxError
from sia_runtime.sandbox import cuda
from sia_runtime.sandbox.contract import Mount, SandboxSpec
from sia_runtime.sandbox.starting import interpreter

INSIDE = "/sia"
"""Where a sandbox with its own file system has what its spec mounts."""

LIBRARIES = f"{INSIDE}/lib"

PROCESSOR = "/proc/cpuinfo"
"""Read by PyTorch, which computes without vector instructions where it is missing, and not at all in float16."""

_RESERVED = ("scratch", "lib", "empty")
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")


@dataclass
class System:
    """The host's files that any Python program needs: real paths, links to them, and folders among them to hide."""

    paths: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Show ``path``, with the links on the way to it."""
        real = os.path.realpath(path)
        if not os.path.exists(real):
            return
        self._link(path)
        if not any(real == parent or real.startswith(parent + "/") for parent in self.paths):
            self.paths.append(real)

    def _link(self, path: str) -> None:
        parts = path.strip("/").split("/")
        for end in range(1, len(parts) + 1):
            prefix = "/" + "/".join(parts[:end])
            if os.path.islink(prefix) and prefix not in self.links and not self._shown(prefix):
                self.links[prefix] = os.readlink(prefix)
                target = os.path.join(os.path.dirname(prefix), self.links[prefix])
                self._link(os.path.normpath(target) + "".join(f"/{part}" for part in parts[end:]))
                return

    def _shown(self, path: str) -> bool:
        return any(path.startswith(parent + "/") for parent in self.paths)


@lru_cache(maxsize=1)
def system() -> System:
    """The interpreter's standard library, the C libraries, the loader's cache and the time zones."""
    result = System()
    standard_library = os.path.realpath(os.path.dirname(os.__file__))
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [f"/usr/lib/{architecture}", f"/lib/{architecture}"] if architecture else []
    for path in (*folders, "/usr/lib64", "/lib64", standard_library, sysconfig.get_config_var("DESTSHARED") or ""):
        if os.path.isdir(path):
            result.add(path)
    for path in (interpreter(), *_private_libraries(), *_mapped_libraries(), *_FILES, "/usr/share/zoneinfo"):
        result.add(path)
    for path in result.paths:
        result.hidden += _package_folders(path)
    return result


def _private_libraries() -> Iterator[str]:
    """Shared libraries beside an interpreter that is not the system's: libpython, and a distribution's own."""
    folder = os.path.join(sys.base_prefix, "lib")
    if sys.base_prefix not in ("/usr", "/"):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if re.fullmatch(r"lib.+\.so[.\d]*", name):
                yield os.path.join(folder, name)


def _mapped_libraries() -> Iterator[str]:
    """The C libraries that this very process has loaded, wherever this system keeps them."""
    with open("/proc/self/maps", errors="surrogateescape") as maps:  # of files that bear any name
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/") and ".so" in line}
    for path in sorted(paths):
        if re.match(r"(lib(c|m|pthread|dl|util|rt|python[\d.]*)|ld(-linux|-musl)?)[-.]", os.path.basename(path)):
            yield path


def _package_folders(path: str) -> list[str]:
    """Folders below ``path`` where third-party packages are installed."""
    if not os.path.isdir(path):
        return []
    versions = [name for name in os.listdir(path) if name.startswith("python3")]
    candidates = [os.path.join(path, *inner, name) for inner in ((), *zip(versions)) for name in _PACKAGE_FOLDERS]
    return [candidate for candidate in candidates if os.path.isdir(candidate)]


def check_mounts(mounts: Iterable[Mount]) -> None:
    """SandboxError for a mount that is missing or whose name is no plain one."""
    for mount in mounts:
        if mount.name in _RESERVED or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", mount.name):
            raise SandboxError(f"mount name {mount.name!r}: use lower-case letters, digits, '-' and '_'")
        if not mount.host.exists():
            raise SandboxError(f"mount {mount.name!r}: {mount.host} does not exist")
        if mount.host.is_symlink():  # whoever made it chose what is shown
            raise SandboxError(f"mount {mount.name!r}: {mount.host} is a link; put what it points to in its place")


def without(path: str, hidden: list[str]) -> Iterator[str]:
    """``path``, or where something hidden lies below it, its entries without that."""
    if path in hidden:
        return
    if not any(each.startswith(path + "/") for each in hidden):
        yield path
        return
    for name in sorted(os.listdir(path)):
        yield from without(os.path.join(path, name), hidden)


def views_of(host: Path, inside: str, *, as_other_user: bool) -> list[list[str]]:
    """How to show a host path inside.

    A folder that is private to its owner, such as ``tempfile.mkdtemp`` makes, is
    shown by its entries, or another user could not enter it.
    """
    if as_other_user and host.is_dir() and host.stat().st_mode & 0o005 != 0o005:
        entries = sorted(host.iterdir())
        if link := next((entry for entry in entries if entry.is_symlink()), None):  # a view would be of its target
            raise SandboxError(f"{link} is a link; put the file that it points to in its place")
        return [[str(entry), f"{inside}/{entry.name}"] for entry in entries]
    return [[str(host), inside]]


@dataclass(frozen=True)
class Inside:
    """A file system for a spec: ``views`` as pairs of host path and path inside, ``links`` of target and path inside.

    ``folders`` are to be made, ``mounts`` gives each mount's path by its name, and
    ``devices`` are the nodes that may be driven, each at its own path. ``private`` is
    whether another user needs a capability to read some of it.
    """

    views: list[list[str]]
    links: list[list[str]]
    folders: list[str]
    mounts: dict[str, str]
    devices: list[str]
    private: bool


def inside(spec: SandboxSpec, *, as_other_user: bool) -> Inside:
    """The file system that a spec asks for. SandboxError where it cannot be."""
    check_mounts(spec.mounts)
    if spec.cuda and not as_other_user and os.geteuid() == 0:
        # Inside it would still be root to the kernel's settings below /proc, which a device's driver has to see.
        raise SandboxError("no CUDA device is handed out by a root that cannot become another user")
    mounts = {mount.name: f"{INSIDE}/{mount.name}" for mount in spec.mounts}
    views = [[path, path] for path in system().paths]
    for mount in spec.mounts:
        views += views_of(mount.host, mounts[mount.name], as_other_user=as_other_user)
    views += [[str(path), f"{LIBRARIES}/{path.name}"] for path in spec.libraries]
    folders = [LIBRARIES, *(mounts[mount.name] for mount in spec.mounts if mount.host.is_dir())]
    links = [[target, link] for link, target in system().links.items()]
    devices = cuda.nodes() if spec.cuda else []
    views += [[path, path] for path in cuda.READ if spec.cuda and os.path.isdir(path)]
    private = as_other_user and any(_is_private(source) for source, _ in views)
    return Inside(views, links, folders, mounts, devices, private)


def _is_private(path: str) -> bool:
    """Whether others may not read a file or folder: so is what root installs or writes under a strict umask."""
    mode = os.stat(path).st_mode
    access = 0o005 if stat.S_ISDIR(mode) else 0o004
    return mode & access != access
