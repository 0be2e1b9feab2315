"""Leaves a message for later candidates in System V shared memory, which no process owns."""

from inside import LIBC, TARGETS, checked

AGAINST = ("processes",)


def solve(instance, ctx):
    checked(LIBC.shmget(TARGETS["segment"], 4096, 0o1666))
