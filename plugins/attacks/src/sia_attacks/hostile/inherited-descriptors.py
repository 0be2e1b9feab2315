"""Reads whatever descriptors it was started with."""

import os

from inside import attempt

AGAINST = ("files",)


def solve(instance, ctx):
    contents = [attempt(os.pread, descriptor, 4096, 0) for descriptor in range(3, 1024)]
    return [data.decode("latin-1") for data in contents if data]
