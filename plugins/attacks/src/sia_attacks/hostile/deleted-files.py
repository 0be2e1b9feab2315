"""Fills the disk with files that it deletes and keeps open, so that no folder holds them."""

import os

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    each = TARGETS["limits"]["file_bytes"]
    files = []
    for _ in range(4 * TARGETS["limits"]["scratch_bytes"] // each):
        files.append(open(ctx.scratch / "file", "wb"))  # noqa: SIM115
        os.unlink(ctx.scratch / "file")
        for _ in range(each >> 20):
            files[-1].write(bytes(1 << 20))
    return succeeded(f"holds {len(files) * each >> 20} MB on the disk")
