"""The file system of a namespaced sandbox: a small tmpfs that holds read-only views of a few host folders.

Runs inside of the new mount namespace, with the capabilities to mount.
"""

from __future__ import annotations

import os
import stat

from sia_runtime.sandbox import linux

SCRATCH = "/sia/scratch"
DEVICES = ("null", "zero", "random", "urandom")
WRITABLE_DEVICES = ("/dev/null", "/dev/zero")

# The new root grows here; any folder that every system has will do, as nobody else sees it.
_BASE = "/tmp"
_VIEW = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID
_SAFE = linux.MS_NOSUID | linux.MS_NODEV
FILES_IN_SCRATCH = 100_000


def enter(
    views: list[list[str]],
    links: list[list[str]],
    folders: list[str],
    covered: list[str],
    devices: list[str],
    *,
    size: int,
    user: int,
) -> None:
    """Build the new root and move into it.

    ``views`` are pairs of host path and path inside, ``links`` pairs of target and
    path inside, ``folders`` are made, and ``covered`` appear empty. The scratch
    folder, of ``size`` bytes, belongs to ``user``. ``devices`` are nodes besides those that
    every program has, whose driver reads ``/proc``, and writes there.
    """
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    nodes = [*(f"/dev/{name}" for name in DEVICES), *devices]
    sources = [*views, *([path, path] for path in nodes)]
    # Copied before the new root hides what lies below it.
    trees = [(_clone(source, inside), _BASE + inside) for source, inside in sources]
    _grow(links, trees, folders)
    empty = f"{_BASE}/sia/empty"
    os.makedirs(empty)
    for inside in covered:
        linux.attach_mount(linux.clone_mount(empty, _VIEW | linux.MOUNT_ATTR_NODEV), _BASE + inside)
    _mount_scratch(size, user)
    if devices:  # else there is no /proc: it would tell of every view where on the host it lies
        _mount_proc()
    _move_in()
    linux.mount("", "/", "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | _SAFE)


def stage(views: list[list[str]]) -> None:
    """Make a root that is the host's, with ``views`` besides, in a mount namespace of this process's own.

    Libraries then have the same paths before a sandbox is built as in it.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_SLAVE)
    tops = [entry for entry in os.scandir("/") if entry.name != "sia"]
    links = [[os.readlink(entry.path), entry.path] for entry in tops if entry.is_symlink()]
    own = [[entry.path, entry.path] for entry in tops if not entry.is_symlink()]
    trees = [(linux.clone_mount(source, 0), _BASE + inside) for source, inside in own]
    trees += [(_clone(source, inside), _BASE + inside) for source, inside in views]
    _grow(links, trees, [])
    _move_in()


def readable() -> list[str]:
    """The paths that a program inside may read: everything but the scratch folder."""
    tops = [f"/{name}" for name in os.listdir("/") if name != "sia"]
    return tops + [f"/sia/{name}" for name in os.listdir("/sia") if f"/sia/{name}" != SCRATCH]


def _grow(links: list[list[str]], trees: list[tuple[int, str]], folders: list[str]) -> None:
    linux.mount("tmpfs", _BASE, "tmpfs", _SAFE, "size=1m,nr_inodes=8k,mode=755")
    for target, inside in links:
        os.makedirs(os.path.dirname(_BASE + inside), exist_ok=True)
        os.symlink(target, _BASE + inside)
    for inside in folders:
        os.makedirs(_BASE + inside)
    for tree, target in trees:
        _make_target(tree, target)
        linux.attach_mount(tree, target)


def _move_in() -> None:
    os.chdir(_BASE)
    linux.pivot_root(".", ".")
    linux.detach(".")
    os.chdir("/")


def _clone(source: str, inside: str) -> int:
    return linux.clone_mount(source, _VIEW if inside.startswith("/dev/") else _VIEW | linux.MOUNT_ATTR_NODEV)


def _make_target(tree: int, target: str) -> None:
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))


def _mount_scratch(size: int, user: int) -> None:
    os.makedirs(_BASE + SCRATCH)
    options = f"size={size},nr_inodes={FILES_IN_SCRATCH},mode=700,uid={user},gid={user}"
    linux.mount("tmpfs", _BASE + SCRATCH, "tmpfs", _SAFE, options)


def _mount_proc() -> None:
    """This namespace's processes, and the kernel's settings; nothing where that is forbidden.

    What is written there is for each file's owner to allow, which this namespace's user is of its processes' alone.
    """
    os.makedirs(f"{_BASE}/proc", exist_ok=True)
    try:
        linux.mount("proc", f"{_BASE}/proc", "proc", _SAFE | linux.MS_NOEXEC, "")
    except PermissionError:
        return
