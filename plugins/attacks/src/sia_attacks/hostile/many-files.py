"""Fills the disk with 256 files, each within its limit, and keeps them."""

import time

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    each = 4 * TARGETS["limits"]["scratch_bytes"] // 256
    for number in range(256):
        (ctx.scratch / str(number)).write_bytes(bytes(each))
    time.sleep(1)  # what is gone before anybody looks has hurt nobody
    return succeeded(f"wrote {256 * each >> 20} MB")
