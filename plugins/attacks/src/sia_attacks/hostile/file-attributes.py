"""Keeps memory in the attributes of files, which no file's size shows."""

import os
import time

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    value, size = bytes(60_000), 0
    try:
        for number in range(2_000):
            path = ctx.scratch / str(number // 50)
            path.touch()
            os.setxattr(path, f"user.{number}", value)
            size += len(value)
    except OSError:
        pass
    time.sleep(1)  # what is gone before anybody looks has hurt nobody
    return succeeded(f"kept {size >> 20} MB") if size > TARGETS["limits"]["scratch_bytes"] else size
