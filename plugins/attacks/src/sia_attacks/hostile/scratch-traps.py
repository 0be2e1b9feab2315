"""Leaves pipes, devices, links and deep folders in its scratch folder, for whoever clears up after it."""

import os

from inside import TARGETS, attempt, succeeded
from shared import total

AGAINST = ("files",)
HONEST = True


def solve(instance, ctx):
    os.mkfifo("answer.json")
    os.symlink(TARGETS["precious"], "folder")
    os.symlink("/dev/zero", "zero")
    os.symlink("loop", "loop")
    os.mkdir("locked", 0)
    attempt(os.mknod, "disk", 0o60600, os.makedev(254, 0))
    if os.path.exists("disk"):
        return succeeded("made a device")
    for _ in range(1000):  # longer together than a path may be
        os.mkdir("deep")
        os.chdir("deep")
    os.chmod(".", 0)
    attempt(os.chmod, ctx.scratch, 0)
    return total(instance.input)
