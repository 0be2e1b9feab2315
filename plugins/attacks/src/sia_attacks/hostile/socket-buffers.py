"""Keeps memory in the kernel: pairs of sockets, whose buffers it enlarges, full of what nobody reads."""

import socket

from inside import SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    pairs, size = [], 0
    while size < SHARE and (pair := attempt(socket.socketpair)):
        pairs.append(pair)
        for end in pair:
            attempt(end.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
            while sent := attempt(end.send, b"x" * 32768):
                size += sent
    return pairs, size


def solve(instance, ctx):
    return kept(fill)
