"""Makes a socket to the hypervisor, which no network namespace holds."""

import socket

from inside import attempt, succeeded

AGAINST = ("net",)


def solve(instance, ctx):
    return attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM) and succeeded("made a vsock socket")
