"""Sends a datagram to the host."""

import socket

from inside import TARGETS

AGAINST = ("net",)


def solve(instance, ctx):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", TARGETS["udp"]))
