"""Mounts a file system, and mounts the host's again to write to it."""

import os

from inside import LIBC, attempt, checked, succeeded

AGAINST = ("files",)
BIND, REMOUNT = 4096, 32


def mount(source, target, kind, flags):
    checked(LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None))
    LIBC.umount2(target.encode(), 2)
    return succeeded(f"mounted {kind or source}")


def solve(instance, ctx):
    target = f"{ctx.scratch}/mount"
    os.mkdir(target)
    return (
        attempt(mount, "none", target, "tmpfs", 0)
        or attempt(mount, "/usr", target, "", BIND)
        or attempt(mount, "none", "/usr", "", REMOUNT | BIND)
    )
