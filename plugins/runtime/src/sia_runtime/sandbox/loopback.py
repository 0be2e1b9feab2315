"""The one thing that a program inside may connect to: a listener on its own network's loopback.

Made inside of the new network namespace, before the sandbox is sealed, and handed
to the host, which alone accepts on it.
"""

from __future__ import annotations

import fcntl
import socket
import struct

HOST = "127.0.0.1"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_BACKLOG = 256


def listen() -> socket.socket | None:
    """Bring loopback up, and listen on a port of it; None where a container forbids that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            flags = struct.unpack_from("16xh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16s16x", b"lo")))[0]
            if not flags & _IFF_UP:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        except PermissionError:
            return None
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    listener.listen(_BACKLOG)
    return listener
