"""Sets up io_uring, a second road to most system calls that no filter of them sees."""

import ctypes

from inside import attempt, call, succeeded

AGAINST = ("files", "net")
IO_URING_SETUP = 425


def solve(instance, ctx):
    return attempt(call, IO_URING_SETUP, 4, ctypes.create_string_buffer(120)) and succeeded("has an io_uring")
