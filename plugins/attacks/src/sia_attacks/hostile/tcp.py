"""Connects to a TCP listener of the host's."""

import socket

from inside import TARGETS

AGAINST = ("net",)


def solve(instance, ctx):
    socket.create_connection(("127.0.0.1", TARGETS["tcp"]), 1).sendall(b"out")
