"""Keeps memory in the kernel: pipes that it makes as large as it can, full of what nobody reads."""

import fcntl
import os

from inside import SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    pipes, size = [], 0
    while size < SHARE and (ends := attempt(os.pipe)):
        pipes.append(ends)
        attempt(fcntl.fcntl, ends[1], 1031, 1 << 20)
        os.set_blocking(ends[1], False)
        while sent := attempt(os.write, ends[1], b"x" * 65536):
            size += sent
    return pipes, size


def solve(instance, ctx):
    return kept(fill)
