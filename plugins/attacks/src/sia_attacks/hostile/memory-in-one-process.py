"""Takes 8 GB of address space in one process, and uses more of it than one may."""

import mmap

from inside import TARGETS, attempt, succeeded

AGAINST = ("total_memory",)
INSTANCES = 1


def solve(instance, ctx):
    memory = attempt(mmap.mmap, -1, 8 << 30)  # of which nothing is used yet
    if memory is None:
        raise MemoryError("8 GB were refused")
    used = TARGETS["limits"]["total_memory_bytes"] * 5 // 4
    for start in range(0, used, 1 << 24):
        memory[start : start + (1 << 24)] = bytes(1 << 24)
    return succeeded(f"used {used >> 20} MB")
