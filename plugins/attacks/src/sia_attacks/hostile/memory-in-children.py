"""Takes and keeps memory in eight children, each within its limit and all of them together far above."""

import os
import time

from inside import TARGETS, linger, succeeded

AGAINST = ("total_memory",)
INSTANCES = 1


def solve(instance, ctx):
    each = TARGETS["limits"]["total_memory_bytes"] // 4
    ready, full = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            memory = bytearray(each)
            memory[::4096] = b"x" * len(memory[::4096])
            os.write(full, b"x")
            linger()
    count = sum(len(os.read(ready, 1)) for _ in range(8))
    time.sleep(1)  # what is gone before anybody looks has hurt nobody
    return succeeded(f"{count} children used {each >> 20} MB each")
