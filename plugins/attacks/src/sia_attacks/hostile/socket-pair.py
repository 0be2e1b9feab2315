"""Sends to a Unix socket of the host's from one half of a pair of datagram sockets."""

import socket

from inside import TARGETS, attempt, succeeded

AGAINST = ("net",)


def solve(instance, ctx):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        pair = attempt(socket.socketpair, socket.AF_UNIX, kind)
        for address in (TARGETS["datagrams"], "\0" + TARGETS["abstract"]):
            if pair and attempt(pair[0].sendto, b"out", address):
                return succeeded("sent a datagram to the host")
    return None
