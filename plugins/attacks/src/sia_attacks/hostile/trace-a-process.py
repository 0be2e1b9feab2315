"""Attaches to another process of the user's as a debugger does."""

import ctypes
import os

from inside import LIBC, TARGETS, checked, succeeded

AGAINST = ("processes",)
ATTACH, DETACH = 16, 17


def solve(instance, ctx):
    victim = TARGETS["victim"]["pid"]
    checked(LIBC.ptrace(ATTACH, victim, ctypes.c_void_p(), ctypes.c_void_p()))
    os.waitpid(victim, 0x40000000)
    LIBC.ptrace(DETACH, victim, ctypes.c_void_p(), ctypes.c_void_p())
    return succeeded("traced a process of the user's")
