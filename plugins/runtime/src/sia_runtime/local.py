"""The local backend: this machine, with a thread a job. The work itself is in other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sia_core.host import Host
from sia_core.parcels import function_of
from sia_core.plugins import Plugins
from sia_core.types import Handle, Job


class LocalBackend:
    """Runs jobs beside the orchestrator; sandboxes and verifiers are processes of their own."""

    slots = 2  # one job solves while another is verified

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._host = Host(plugins)
        self._threads = ThreadPoolExecutor(2 * self.slots * (os.cpu_count() or 1), thread_name_prefix="sia-job")

    def submit(self, job: Job) -> Future[Any]:
        return self._threads.submit(function_of(job.function), job.payload, self._host)

    def serve(self, name: str, payload: Mapping[str, Any]) -> Handle:
        """``name`` is ``kind:offer``, such as ``engine:torch``; ``payload`` its settings."""
        kind, _, offer = name.partition(":")
        return _Served(self._plugins.create(kind, offer, **payload))

    def close(self) -> None:
        self._host.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Served:
    def __init__(self, target: Any) -> None:
        self._target = target

    def call(self, method: str, payload: Mapping[str, Any]) -> Any:
        return getattr(self._target, method)(**payload)

    def close(self) -> None:
        if hasattr(self._target, "close"):
            self._target.close()
