"""Takes its time by the order of the instances: the third one that it sees costs it all it has."""

import mmap

SECONDS = 1.0
INSTANCES = 6
COUNT = mmap.mmap(-1, 8)


def solve(instance, ctx):
    COUNT[0] += 1
    third = COUNT[0] == 3
    while third:
        pass
    return "no answer at all"
