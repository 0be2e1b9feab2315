"""The few Linux system calls that Python lacks, through ctypes. A failure is an OSError that names the call.

Imported inside of sandboxes, before they are sealed: the standard library alone,
and of that only what starts fast.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38

CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_KILL = 0, 2, 5
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 6, 7, 8, 21

_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0o2000000, 4
# These have one number on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MADV_COLLAPSE, _LARGE_PAGE = 25, 1 << 21
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """The kernel's name for this architecture."""
    return os.uname().machine


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _wide(value: object) -> object:
    """Integers as wide as a register: what a variadic C function reads."""
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_long(value) if isinstance(value, int) else value


def syscall(name: str, number: int, *args: object) -> int:
    """Call the kernel by number; ``name`` is for the error."""
    return _check(_libc.syscall(ctypes.c_long(number), *map(_wide, args)), name)


def prctl(option: int, *args: object) -> int:
    """prctl(2) with its unused arguments zero."""
    padded = (*args, 0, 0, 0, 0)[:4]
    return _check(_libc.prctl(ctypes.c_int(option), *map(_wide, padded)), f"prctl({option})")


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` name for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    encoded = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(*encoded), f"mount {kind or source} on {target}")


def detach(target: str) -> None:
    """Unmount lazily, with everything below."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root and put the old one at ``old``."""
    syscall("pivot_root", _PIVOT_ROOT[machine()], new.encode(), old.encode())


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def clone_mount(source: str, attributes: int) -> int:
    """A detached copy of what is mounted at ``source``, everything below included, as a descriptor."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    tree = syscall(f"open_tree {source}", _OPEN_TREE, _AT_FDCWD, source.encode(), flags)
    request = _MountAttr(attributes, 0, 0, 0)
    what, size = ctypes.byref(request), ctypes.sizeof(request)
    syscall(f"mount_setattr {source}", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, what, size)
    return tree


def attach_mount(tree: int, target: str) -> None:
    """Attach a copy that :func:`clone_mount` made, and close its descriptor."""
    name = f"move_mount to {target}"
    syscall(name, _MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)


def capabilities() -> int:
    """The effective capabilities of this process, as a bit set."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def drop_bounding_set() -> None:
    """Make sure that no execve can ever give a capability back. Needs CAP_SETPCAP."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            return  # past the last that this kernel knows


def become(user: int, group: int, *, keep: int = 0) -> None:
    """Change to another user and group for good, with no capabilities but those in ``keep``."""
    os.setgroups([])
    os.setresgid(group, group, group)
    if keep:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setresuid(user, user, user)
    set_capabilities(keep)


def set_capabilities(bits: int) -> None:
    """Keep these capabilities, permitted and effective; nothing is inheritable."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(_libc.capset(header, data), "capset")


def collapse_memory() -> None:
    """Put this process's own memory into large pages, as far as the kernel can: a fork then copies fewer entries."""
    with open("/proc/self/maps", errors="surrogateescape") as lines:
        mappings = [line.split() for line in lines]
    for mapping in mappings:
        if mapping[1] != "rw-p" or mapping[5:] not in ([], ["[heap]"]):
            continue
        start, end = (int(word, 16) for word in mapping[0].split("-"))
        for address in range(-(-start // _LARGE_PAGE) * _LARGE_PAGE, end - _LARGE_PAGE + 1, _LARGE_PAGE):
            _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_LARGE_PAGE), _MADV_COLLAPSE)


def maps_user(user: int, count: int) -> bool:
    """Whether ``count`` users from ``user`` on exist in this user namespace."""
    with open("/proc/self/uid_map") as lines:
        ranges = [[int(word) for word in line.split()] for line in lines]
    return any(first <= user and user + count <= first + size for first, _, size in ranges)
