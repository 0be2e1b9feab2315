"""Writes one file that is larger than any may be."""

from inside import TARGETS, succeeded

AGAINST = ("total_disk",)
INSTANCES = 1


def solve(instance, ctx):
    with open(ctx.scratch / "file", "wb") as file:
        for _ in range(2 * TARGETS["limits"]["file_bytes"] >> 20):
            file.write(bytes(1 << 20))
    return succeeded("wrote a file larger than any may be")
