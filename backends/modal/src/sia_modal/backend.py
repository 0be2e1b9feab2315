"""The backend ``modal``: each job is an input of one class, for which Modal starts containers as it needs them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from sia_core.errors import SiaError, UsageError
from sia_core.plugins import Plugins
from sia_core.types import Job
from sia_modal.settings import Settings
from sia_runtime.jobs import JobResult, Sender

if TYPE_CHECKING:
    from sia_modal.cloud import Cloud


class ModalBackend:
    """Runs jobs in containers of Modal; its factory takes :class:`sia_modal.settings.Settings`' fields."""

    def __init__(self, plugins: Plugins, **settings: Any) -> None:
        options = Settings.of(settings)
        try:
            from sia_modal.cloud import ModalCloud
        except ImportError as error:
            raise UsageError(f"the backend modal needs its library ({error}): pip install sia-modal") from None
        self._take(ModalCloud(options, plugins.allow), options)

    @classmethod
    def of(cls, cloud: Cloud, settings: Settings) -> Self:
        """A backend on a cloud that is there already."""
        backend = cls.__new__(cls)
        backend._take(cloud, settings)
        return backend

    def _take(self, cloud: Cloud, settings: Settings) -> None:
        self._cloud, self._sender = cloud, Sender()
        self.slots = settings.containers * settings.at_once
        self._threads = ThreadPoolExecutor(2 * self.slots, thread_name_prefix="sia-modal")
        self._uploaded: set[str] = set()
        self._mutex = threading.Lock()
        self._closed = False

    def submit(self, job: Job) -> Future[Any]:
        if self._closed:
            raise SiaError("the backend is closed")
        return self._threads.submit(self._run, job)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cloud.close()
            self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> Any:
        parcel = self._sender.pack(job)
        with self._mutex:
            lacking = {*parcel.files.values()} - self._uploaded
            if lacking:
                self._cloud.upload({digest: self._sender.content(digest) for digest in sorted(lacking)})
                self._uploaded |= lacking
        outcome, files = self._cloud.run(json.dumps(parcel.to_json()))
        return self._sender.keep(parcel, JobResult.read(outcome), files)
