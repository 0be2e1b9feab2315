"""Takes 8 GB of address space in one process, and uses more of it than one may."""

from inside import TARGETS, succeeded

AGAINST = ("total_memory",)
INSTANCES = 1


def solve(instance, ctx):
    taken = bytearray(8 << 30)
    used = TARGETS["limits"]["total_memory_bytes"] * 5 // 4
    for start in range(0, used, 1 << 24):
        taken[start : start + (1 << 24)] = bytes(1 << 24)
    return succeeded(f"used {used >> 20} MB")
