"""The work of a container, whatever started it: jobs, with a host that it keeps between them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sia_core.plugins import Plugins
from sia_runtime.jobs import Parcel, Receiver
from sia_runtime.worker.host import Host

PREFIX = "sia-modal-"


class Work:
    """A host between jobs; ``read`` gives the content of a digest that was uploaded."""

    def __init__(self, read: Callable[[str], bytes], allow: str | None = None) -> None:
        self._read = read
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._host = Host(Plugins.discover(allow=allow))
        self._receiver = Receiver(self._folder, self._host)

    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        """A job's outcome as JSON, and the files that it left."""

        def fetch(digests: Sequence[str]) -> Sequence[bytes]:
            return [self._read(digest) for digest in digests]

        outcome, files = self._receiver.run(Parcel(**json.loads(parcel)), fetch)
        return outcome.text(), files

    def stop(self) -> None:
        """Kill sandboxes and verifiers."""
        self._host.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
