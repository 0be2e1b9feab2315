"""Connects to an abstract Unix socket of the host's, which has no path."""

import socket

from inside import TARGETS

AGAINST = ("net",)


def solve(instance, ctx):
    socket.socket(socket.AF_UNIX).connect("\0" + TARGETS["abstract"])
