"""Makes sockets that speak to the kernel: routing, audit, packets, cryptography."""

import socket

from inside import attempt, succeeded

AGAINST = ("net",)
KINDS = ((16, 3, 0), (16, 3, 9), (17, 3, 0), (38, 5, 0), (40, 1, 0))


def solve(instance, ctx):
    families = [family for family, kind, protocol in KINDS if attempt(socket.socket, family, kind, protocol)]
    return families and succeeded(f"made sockets of the families {families}")
