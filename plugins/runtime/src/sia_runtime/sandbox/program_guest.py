"""The program that loads a candidate's module in a sandbox and calls its functions, one order after the other.

Its first process only waits for the second, which is the candidate's from the moment
that the module is loaded: the host trusts nothing that it sends, and measures time itself.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys

from sia_runtime.sandbox import solving, values
from sia_runtime.sandbox.frames import HEADER_BYTES, FrameReader, Header, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from sia_runtime.sandbox.launch import World

MOST_HANDLES = 4
"""Descriptors that come with one call, besides that of the memory its arrays lie in."""

_READ = 1 << 18
_SIGNALLED = 128


def main(channel: int, world: World) -> None:
    """Serve the host until it closes the channel, and end as the candidate's process ends."""
    rules = world.rules(world.scratch)
    pid = os.fork()
    if pid == 0:
        try:
            world.confine(rules)
            if rules is not None:
                os.close(rules)
            os.environ["TMPDIR"] = os.environ["HOME"] = world.scratch
            _serve(HostChannel(channel), world)
        finally:
            os._exit(70)
    os.close(channel)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # The first process of a namespace is deaf to its own signals.
    os._exit(code if code >= 0 else _SIGNALLED - code)


class HostChannel:
    """The host's end, as seen from inside."""

    def __init__(self, channel: int) -> None:
        self._end = socket.socket(fileno=channel)
        self._reader = FrameReader(sys.maxsize)
        self.store: int | None = None

    def receive(self) -> tuple[Header, bytes, list[int]]:
        """The next frame, and the descriptors that came with it. Ends the process where the host has gone."""
        received: list[int] = []
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._end, _READ, 1 + MOST_HANDLES)
            received += descriptors
            if not data:
                os._exit(0)
            for header, body in self._reader.feed(data):
                return header, body, received

    def send(self, header: Header, body: bytes = b"") -> None:
        self._end.sendall(encode(header, body))

    def deliver(self, header: Header, arrays: list[Any]) -> None:
        """Send a reply, with its arrays in the memory that is shared with the host, or behind it."""
        forms = values.forms_of(arrays)
        spots, size = values.places(forms, sys.maxsize)
        header = {**header, "arrays": forms}
        if len(json.dumps(header)) > HEADER_BYTES:
            raise ValueError(f"what is no array of it has more than {HEADER_BYTES} bytes as JSON")
        if self.store is None:
            body = bytearray(size)
            for (start, length), array in zip(spots, arrays, strict=True):
                body[start : start + length] = array.tobytes()
            self.send(header, bytes(body))
            return
        if size > os.fstat(self.store).st_size:
            raise ValueError(f"its arrays have {size} bytes, and {os.fstat(self.store).st_size} are accepted")
        for (start, _), array in zip(spots, arrays, strict=True):
            values.write(self.store, array, start)
        self.send(header)


def _serve(host: HostChannel, world: World) -> None:
    folder = world.mounts["files"]
    host.store = next(iter(host.receive()[2]), None)
    host.send({"shared": host.store is not None})
    order = host.receive()[0]
    if order["alone"]:
        world.stay_alone()
    try:
        module = _load(folder, str(order["module"]))
    except BaseException as error:
        host.send({"message": solving.describe(error, folder)})
        os._exit(0)
    host.send({"loaded": True})
    while True:
        header, body, descriptors = host.receive()
        try:
            value = _call(module, header, body, descriptors)
            arrays: list[Any] = []
            tree = values.pack(value, arrays)
            host.deliver({"token": header["token"], "ended": "ok", "value": tree, "message": ""}, arrays)
            del value, arrays
        except BaseException as error:
            message = solving.describe(error, folder)
            host.send({"token": header["token"], "ended": "error", "value": None, "message": message, "arrays": []})


def _load(folder: str, name: str) -> ModuleType:
    from importlib import import_module

    sys.path.insert(0, folder)
    return import_module(name)


def _call(module: ModuleType, header: Any, body: bytes, descriptors: list[int]) -> Any:
    """Call what the order names, over arrays that lie where the host put them."""
    spots, size = values.places(header["arrays"], sys.maxsize)
    data = memoryview(bytearray(body))
    if len(descriptors) > header["handles"]:
        # Private: what is written goes to pages of this process's own.
        memory = descriptors.pop(0)
        data = memoryview(mmap.mmap(memory, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
        os.close(memory)
    arrays = [
        values.view(form, data[start : start + length])
        for form, (start, length) in zip(header["arrays"], spots, strict=True)
    ]
    return getattr(module, header["function"])(*values.unpack(header["arguments"], arrays), *descriptors)
