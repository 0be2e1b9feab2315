"""Fills the disk with 256 files, each within its limit."""

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    each = 4 * TARGETS["limits"]["scratch_bytes"] // 256
    for number in range(256):
        (ctx.scratch / str(number)).write_bytes(bytes(each))
    return succeeded(f"wrote {256 * each >> 20} MB")
