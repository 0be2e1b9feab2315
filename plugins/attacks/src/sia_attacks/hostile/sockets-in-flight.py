"""Keeps memory in the kernel: sockets full of data, which no process has open, as they are under way in others."""

import socket

from inside import SHARE, attempt, kept

AGAINST = ("total_memory",)
SECONDS = 15.0
INSTANCES = 1


def fill():
    carriers, size = [], 0
    while size < SHARE and (carrier := attempt(socket.socketpair)):
        carriers.append(carrier)
        carrier[0].setblocking(False)
        while size < SHARE and (pair := attempt(socket.socketpair)):
            for end in pair:
                end.setblocking(False)
                while sent := attempt(end.send, b"x" * 32768):
                    size += sent
            gone = attempt(socket.send_fds, carrier[0], [b"x"], [end.fileno() for end in pair])
            for end in pair:
                end.close()
            if gone is None:
                break
    return carriers, size


def solve(instance, ctx):
    return kept(fill)
