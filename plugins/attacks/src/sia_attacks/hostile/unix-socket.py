"""Connects to a Unix socket of the host's by its path, as a container daemon's or an SSH agent's is."""

import socket

from inside import TARGETS

AGAINST = ("net",)


def solve(instance, ctx):
    socket.socket(socket.AF_UNIX).connect(TARGETS["unix"])
