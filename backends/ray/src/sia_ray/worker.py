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
from sia_runtime.reporting import LastReports, heard_by
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
        self._reports: dict[int, LastReports] = {}

    def ready(self) -> int:
        """The worker's process."""
        return os.getpid()

    def run(self, number: int, parcel: str, references: Mapping[str, Any]) -> tuple[str, dict[str, bytes], str]:
        """A job's outcome as JSON, the files that it left, and its last reports.

        ``references`` are to contents that may be lacking.
        """

        def fetch(digests: Sequence[str]) -> Sequence[bytes]:
            import ray

            contents: list[bytes] = ray.get([references[digest] for digest in digests])
            return contents

        reports = self._reports[number] = LastReports()
        try:
            with heard_by(reports):
                outcome, files = self._receiver.run(Parcel(**json.loads(parcel)), fetch)
        finally:
            del self._reports[number]
        return outcome.text(), files, reports.after(0)

    def reports(self, number: int, count: int) -> str:
        """The reports of a job after the first ``count``; none of one that does not run here."""
        return self._reports.get(number, LastReports()).after(count)

    def stop(self) -> None:
        """Kill sandboxes and verifiers; what waits for them ends."""
        self._host.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._claim)
