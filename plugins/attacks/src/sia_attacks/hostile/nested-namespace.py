"""Makes a user namespace, in which it would be root."""

import os

from inside import LIBC, attempt, checked, succeeded

AGAINST = ("files",)
NEW_USER, NEW_MOUNT = 0x10000000, 0x20000


def unshared():
    checked(LIBC.unshare(NEW_USER | NEW_MOUNT))
    return succeeded("is root in a new namespace")


def solve(instance, ctx):
    return attempt(unshared) or attempt(os.readlink, "/proc/self/ns/none")
