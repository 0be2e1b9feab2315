"""The local backend: this machine, with a thread a job. The work itself is in other processes."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sia_core.plugins import Plugins
from sia_core.types import Job, OnProgress
from sia_runtime.jobs import function_of
from sia_runtime.reporting import heard_by
from sia_runtime.worker.host import Host


class LocalBackend:
    """Runs jobs beside the orchestrator; sandboxes and verifiers are processes of their own."""

    slots = 2  # one job solves while another is verified

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._host = Host(plugins)
        self._threads = ThreadPoolExecutor(2 * self.slots * (os.cpu_count() or 1), thread_name_prefix="sia-job")

    def submit(self, job: Job) -> Future[Any]:
        return self._threads.submit(function_of(job.function), job.payload, self._host)

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        return self._threads.submit(self._run_watched, job, on_progress)

    def _run_watched(self, job: Job, on_progress: OnProgress) -> Any:
        with heard_by(on_progress):
            return function_of(job.function)(job.payload, self._host)

    def close(self) -> None:
        self._host.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
