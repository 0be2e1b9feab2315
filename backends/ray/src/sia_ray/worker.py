"""The worker that runs on the cluster, with a host that it keeps between jobs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_core.plugins import Plugins
from sia_runtime.jobs import Parcel, Receiver
from sia_runtime.sandbox.own_folder import claim, own_folder, sweep
from sia_runtime.worker.host import Host

THREADS = "OMP_NUM_THREADS"


class Worker:
    """An actor that keeps a host between jobs. ``threads`` is how many the driver's own mathematics would use."""

    def __init__(self, allow: str | None, threads: str) -> None:
        os.environ[THREADS] = threads  # Ray says 1; sums in another order would be other numbers
        sweep()
        self._folder = Path(tempfile.mkdtemp(dir=own_folder()))
        self._claim = claim(self._folder)
        self._host = Host(Plugins.discover(allow=allow))
        self._receiver = Receiver(self._folder, self._host)

    def ready(self) -> int:
        """The worker's process."""
        return os.getpid()

    def run(self, parcel: str, references: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
        """A job's outcome as JSON, and the files that it left. ``references`` are to contents that may be lacking."""

        def fetch(digests: Sequence[str]) -> Sequence[bytes]:
            import ray

            contents: list[bytes] = ray.get([references[digest] for digest in digests])
            return contents

        outcome, files = self._receiver.run(Parcel(**json.loads(parcel)), fetch)
        return outcome.text(), files

    def stop(self) -> None:
        """Kill sandboxes and verifiers; what waits for them ends."""
        self._host.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._claim)
