"""Keeps memory in the kernel: rules of Landlock's, thousands of them for ports, and never enforces one."""

import ctypes
import time

from inside import LIBC, SHARE, attempt, call, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    """It takes seconds a hundred thousand rules: that one can be made at all is what counts."""
    attributes, rule = (ctypes.c_uint64 * 3)(0, 3, 0), (ctypes.c_uint64 * 2)(2, 0)
    count, until = 0, time.monotonic() + 1
    while time.monotonic() < until:
        rules = attempt(call, 444, ctypes.byref(attributes), ctypes.c_long(24), ctypes.c_long(0))
        if rules is None:
            break
        for port in range(65536):
            rule[1] = port
            added = LIBC.syscall(ctypes.c_long(445), ctypes.c_long(rules), ctypes.c_long(2), ctypes.byref(rule), 0)
            count += added == 0
    return count, SHARE if count else 0


def solve(instance, ctx):
    return kept(fill)
