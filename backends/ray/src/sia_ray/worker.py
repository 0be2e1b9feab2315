"""What runs on the cluster: a worker with a host of its own, and what is served there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_core.host import Host
from sia_core.parcels import Outcome, Parcel, Receiver
from sia_core.plugins import Plugins

THREADS = "OMP_NUM_THREADS"
PREFIX = "sia-ray-"


class Worker:
    """An actor that keeps a host between jobs. ``threads`` is how many the driver's own mathematics would use."""

    def __init__(self, allow: str | None, threads: str) -> None:
        os.environ[THREADS] = threads  # Ray says 1; sums in another order would be other numbers
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
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
        return written(outcome), files

    def stop(self) -> None:
        """Kill sandboxes and verifiers; what waits for them ends."""
        self._host.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class Served:
    """An actor that holds what is served."""

    def __init__(self, allow: str | None) -> None:
        self._plugins = Plugins.discover(allow=allow)
        self._target: Any = None

    def start(self, kind: str, offer: str, payload: str) -> str:
        """Create it; the outcome as JSON."""

        def create() -> None:
            self._target = self._plugins.create(kind, offer, **json.loads(payload))

        return _tried(create)

    def call(self, method: str, payload: str) -> str:
        """Call a method of it; the outcome as JSON."""
        return _tried(lambda: getattr(self._target, method)(**json.loads(payload)))

    def close(self) -> None:
        if hasattr(self._target, "close"):
            self._target.close()


def written(outcome: Outcome) -> str:
    """An outcome as JSON; a result that is none is the job's error."""
    try:
        return json.dumps(outcome.to_json())
    except (TypeError, ValueError) as error:
        return json.dumps(Outcome(error=(type(error).__name__, f"its result is no JSON: {error}")).to_json())


def _tried(work: Any) -> str:
    try:
        return written(Outcome(work()))
    except Exception as error:
        return written(Outcome(error=(type(error).__name__, str(error)), trace=traceback.format_exc()))


def _sweep() -> None:
    """Remove the folders of workers of this machine that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)
