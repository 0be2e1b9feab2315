"""What a container does, whatever started it: jobs with a host of its own, and what is served."""

from __future__ import annotations

import json
import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sia_core.host import Host
from sia_core.parcels import Outcome, Parcel, Receiver
from sia_core.plugins import Plugins

PREFIX = "sia-modal-"


class Work:
    """A host between jobs; ``read`` gives the content of a digest that was uploaded."""

    def __init__(self, read: Callable[[str], bytes], allow: str | None = None) -> None:
        self._read = read
        self._plugins = Plugins.discover(allow=allow)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._host = Host(self._plugins)
        self._receiver = Receiver(self._folder, self._host)
        self._served: dict[str, Any] = {}

    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        """A job's outcome as JSON, and the files that it left."""

        def fetch(digests: Sequence[str]) -> Sequence[bytes]:
            return [self._read(digest) for digest in digests]

        outcome, files = self._receiver.run(Parcel(**json.loads(parcel)), fetch)
        return written(outcome), files

    def call(self, name: str, payload: str, method: str, arguments: str) -> str:
        """Call what is served, which is created at its first call; the outcome as JSON. No method only creates it."""

        def called() -> Any:
            kind, _, offer = name.partition(":")
            if name not in self._served:
                self._served[name] = self._plugins.create(kind, offer, **json.loads(payload))
            return getattr(self._served[name], method)(**json.loads(arguments)) if method else None

        try:
            return written(Outcome(called()))
        except Exception as error:
            return written(Outcome(error=(type(error).__name__, str(error)), trace=traceback.format_exc()))

    def stop(self) -> None:
        """Kill sandboxes and verifiers; close what was served."""
        self._host.stop()
        for target in self._served.values():
            if hasattr(target, "close"):
                target.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def written(outcome: Outcome) -> str:
    """An outcome as JSON; a result that is none is the job's error."""
    try:
        return json.dumps(outcome.to_json())
    except (TypeError, ValueError) as error:
        return json.dumps(Outcome(error=(type(error).__name__, f"its result is no JSON: {error}")).to_json())
