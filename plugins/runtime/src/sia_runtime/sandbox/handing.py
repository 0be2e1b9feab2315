"""Descriptors on their way from one process to another, with a line of text."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence


def hand_over(end: int, line: bytes, descriptors: Sequence[int]) -> None:
    """Send a line and descriptors over a Unix socket, and close them here."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    with socket.socket(fileno=end) as target:
        target.sendmsg([line], rights)
        target.detach()
    for descriptor in descriptors:
        os.close(descriptor)
