"""Keeps memory in the kernel: datagrams to sockets that never read, from sockets that are closed again."""

import socket

from inside import SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    sockets, size = [], 0
    while size < SHARE and (pair := attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)):
        sockets.append(pair[1])
        pair[0].setblocking(False)
        while sent := attempt(pair[0].send, b"x" * 32768):
            size += sent
        pair[0].close()
    return sockets, size


def solve(instance, ctx):
    return kept(fill)
