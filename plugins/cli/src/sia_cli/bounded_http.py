"""A web server whose connections, time and memory are bounded whatever clients send, or do not send."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sia_core.errors import UsageError

SECONDS = 30.0
"""Seconds that a client has to send a whole request, or to take a reply."""

IDLE_SECONDS = 15
"""Seconds that an idle connection stays open."""

MOST_HEAD = 1 << 16


class BoundedProtocol(H11Protocol):
    """One connection. Where there are too many, the one that has waited longest for its client gives way."""

    seconds = SECONDS
    deadline: asyncio.TimerHandle | None = None
    """When the connection is cut. None while the server is at work on a request."""

    def connection_made(self, transport: Any) -> None:
        waiting: Any = [each for each in self.connections if isinstance(each, BoundedProtocol) and each.deadline]
        if waiting and len(self.connections) + 1 >= (self.limit_concurrency or 0):
            min(waiting, key=lambda each: each.deadline.when()).cut()
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.deadline:
            self.deadline.cancel()

    def cut(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        """Start the clock where the connection waits for its client, and stop it where it does not."""
        cycle: Any = self.cycle
        working = cycle and not (cycle.more_body or cycle.response_complete or self.flow.write_paused)
        if working and self.deadline:
            self.deadline.cancel()
            self.deadline = None
        elif not working and not self.deadline:
            self.deadline = self.loop.call_later(self.seconds, self.cut)


class Server(uvicorn.Server):
    """Serves an application to at most ``connections`` clients; sets ``ending`` when it is asked to stop."""

    def __init__(self, app: Any, connections: int, ending: threading.Event | None = None, **options: Any) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            limit_concurrency=connections + 1,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=MOST_HEAD,
            server_header=False,
            access_log=False,
            **options,
        )
        super().__init__(config)
        self._ending = ending or threading.Event()
        self._deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as a shell starts a job in the background

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and self._deaf:
            return
        self._ending.set()
        super().handle_exit(sig, frame)

    def serve_until_interrupted(self, listener: socket.socket) -> None:
        if callable(signal.getsignal(signal.SIGHUP)):
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # uvicorn knows that one
        with suppress(KeyboardInterrupt):
            self.run(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """A listener at an address; UsageError where it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: {error.strerror or error}; --port 0 takes any that is free"
        ) from None
