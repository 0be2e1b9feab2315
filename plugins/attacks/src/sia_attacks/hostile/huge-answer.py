"""Announces an answer of 2 GB, and sends what it can of it."""

import struct

from inside import done, send_everywhere

SECONDS = 1.0


def solve(instance, ctx):
    header = done(b"")[8:]
    send_everywhere(struct.pack(">II", len(header), 1 << 31) + header)
    return "x" * (1 << 31)
