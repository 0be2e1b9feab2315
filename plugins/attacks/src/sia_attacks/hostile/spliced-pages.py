"""Keeps memory in the kernel: pages of large ones that it gives to pipes and then unmaps, of which all stay."""

import ctypes
import mmap
import os

from inside import LIBC, SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1
LARGE = 1 << 21


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def fill():
    pipes, size = [], 0
    while size < SHARE and (ends := attempt(os.pipe)):
        pipes.append(ends)
        for _ in range(16):
            memory = mmap.mmap(-1, 2 * LARGE)
            attempt(memory.madvise, 14)  # pages as large as can be
            start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            start = -(-start // LARGE) * LARGE
            ctypes.memset(start, 1, 4096)
            piece = Piece(start, 4096)
            count = LIBC.vmsplice(ends[1], ctypes.byref(piece), ctypes.c_ulong(1), 2)
            LIBC.munmap(ctypes.c_void_p(start), ctypes.c_size_t(LARGE))
            if count <= 0:
                return pipes, size
            size += LARGE
    return pipes, size


def solve(instance, ctx):
    return kept(fill)
