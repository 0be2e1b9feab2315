"""Fills the disk with files that it deletes and keeps open, so that no folder holds them."""

import os

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    each = TARGETS["limits"]["file_bytes"]
    held = []
    for _ in range(4 * TARGETS["limits"]["scratch_bytes"] // each):
        held.append(open(ctx.scratch / "file", "wb"))  # noqa: SIM115
        os.unlink(ctx.scratch / "file")
        for _ in range(each >> 20):
            held[-1].write(bytes(1 << 20))
    return succeeded(f"holds {len(held) * each >> 20} MB on the disk")
