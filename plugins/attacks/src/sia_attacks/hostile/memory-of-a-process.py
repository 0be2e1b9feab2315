"""Reads the memory of another process of the user's, through /proc and by a system call."""

import ctypes

from inside import LIBC, TARGETS, attempt, checked

AGAINST = ("processes",)
VICTIM = TARGETS["victim"]


class Piece(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def by_file():
    with open(f"/proc/{VICTIM['pid']}/mem", "rb", buffering=0) as memory:
        memory.seek(VICTIM["address"])
        return memory.read(VICTIM["size"]).decode()


def by_call():
    buffer = ctypes.create_string_buffer(VICTIM["size"])
    here = Piece(ctypes.addressof(buffer), VICTIM["size"])
    there = Piece(VICTIM["address"], VICTIM["size"])
    count = LIBC.process_vm_readv(VICTIM["pid"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    checked(count)
    return buffer.raw.decode()


def solve(instance, ctx):
    return [attempt(by_file), attempt(by_call)]
