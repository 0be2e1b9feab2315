"""Landlock: what a process and its descendants may do with files, TCP, signals and abstract sockets.

A kernel enforces as much as its Landlock version (ABI) knows; the rest is left to
the other layers. Rules add up within one call and intersect between calls.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable, Sequence

from sia_runtime.sandbox import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_FIRST_ABI = (1 << 13) - 1
_SINCE = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NOT_IN_SCRATCH = _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV
_THREADS = "/proc"
"""Each thread's name is a file somewhere below it. What else is there is its owner's to write, or nobody's."""
_TCP_BIND_AND_CONNECT, _TCP_CONNECT = 3, 2
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "net", "scoped")]


class _NetPort(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("allowed", "port")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def abi() -> int:
    """The version of Landlock that the kernel speaks; 0 where it has none."""
    if sys.platform != "linux":
        return 0  # where the number means another call, which may end the process
    try:
        return linux.syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def ruleset(
    readable: Iterable[str],
    writable: Iterable[str] = (),
    devices: Iterable[str] = (),
    listable: Iterable[str] = (),
    port: int | None = None,
    driven: Sequence[str] = (),
) -> int:
    """Rules for :func:`enforce`, as a descriptor.

    A process under them may read and run ``readable``, change ``writable``, write
    to ``devices``, control what is ``driven`` by calls of its driver's besides, as that driver's
    library names its threads, and see the names of what is below ``listable``.

    It can then open no TCP connection but to ``port``, signal no process outside, and reach no
    abstract socket outside, as far as the kernel's ABI goes. Paths that do not
    exist are left out.
    """
    version = abi()
    files = _FIRST_ABI
    for since, right in _SINCE:
        files |= right if version >= since else 0
    net = _TCP_BIND_AND_CONNECT if version >= 4 else 0
    scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = _Ruleset(files, net, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = linux.syscall("landlock_create_ruleset", _CREATE_RULESET, ctypes.byref(attributes), size, 0)
    for paths, rights in (
        (readable, _READ),
        (writable, files & ~_NOT_IN_SCRATCH),
        (devices, _READ_FILE | _WRITE_FILE),
        (driven, _READ_FILE | _WRITE_FILE | _IOCTL_DEV),
        ([_THREADS] if driven else [], _READ | _WRITE_FILE | _TRUNCATE),
        (listable, _READ_DIR),
    ):
        for path in paths:
            _allow(rules, path, rights & files)
    if net and port is not None:
        rule = ctypes.byref(_NetPort(_TCP_CONNECT, port))
        linux.syscall("landlock_add_rule of a port", _ADD_RULE, rules, _RULE_NET_PORT, rule, 0)
    return rules


def enforce(rules: int) -> None:
    """Put this process and all that it starts under the rules, for good. Needs no_new_privs."""
    linux.syscall("landlock_restrict_self", _RESTRICT_SELF, rules, 0)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _ON_FILES
        rule = ctypes.byref(_PathBeneath(rights, parent))
        linux.syscall(f"landlock_add_rule {path}", _ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(parent)
