"""Keeps memory in the kernel: what it sends over connections that nobody accepts, and closes."""

import os
import socket

from inside import SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    sockets, size = [], 0
    while size < SHARE and (listener := attempt(socket.socket, socket.AF_UNIX)):
        sockets.append(listener)
        path = f"s-{os.getpid()}-{len(sockets)}"
        if attempt(listener.bind, path) is None and not os.path.exists(path):
            break
        attempt(listener.listen, 4096)
        while size < SHARE and (end := attempt(socket.socket, socket.AF_UNIX)):
            end.setblocking(False)
            if end.connect_ex(path):
                break
            while sent := attempt(end.send, b"x" * 32768):
                size += sent
            end.close()
    return sockets, size


def solve(instance, ctx):
    return kept(fill)
