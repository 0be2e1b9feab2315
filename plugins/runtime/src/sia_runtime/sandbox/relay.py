"""Between a container's standard streams and the channel of the program in it."""

from __future__ import annotations

import os
import select
import socket

_READ = 1 << 16
_LAST_WORD_SECONDS = 1.0


def pass_on(source: int, sink: int, channel: socket.socket) -> None:
    """Pass on bytes both ways until either end closes. Neither side is read while the other does not take."""
    inward = outward = b""
    while True:
        poll = select.poll()
        events = (0 if outward else select.POLLIN) | (select.POLLOUT if inward else 0)
        poll.register(channel, events)
        if not inward:
            poll.register(source, select.POLLIN)
        if outward:
            poll.register(sink, select.POLLOUT)
        ready = dict(poll.poll())
        if source in ready:
            inward = os.read(source, _READ)
            if not inward:
                return
        if ready.get(channel.fileno(), 0) & ~select.POLLOUT and not outward:
            try:
                outward = channel.recv(_READ)
            except ConnectionResetError:
                outward = b""
            if not outward:
                return
        if inward and ready.get(channel.fileno(), 0) & select.POLLOUT:
            try:
                inward = inward[channel.send(inward, socket.MSG_DONTWAIT) :]
            except (BlockingIOError, BrokenPipeError):
                continue
        if outward and sink in ready:
            outward = outward[os.write(sink, outward[: select.PIPE_BUF]) :]


def status_of(pid: int) -> int:
    """How a child ended, as a shell tells it; 0 where it has not, within a moment."""
    handle = os.pidfd_open(pid)
    if not select.select([handle], [], [], _LAST_WORD_SECONDS)[0]:
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code
