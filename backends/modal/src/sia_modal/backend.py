"""The backend ``modal``: each job is an input of one class, for which Modal starts containers as it needs them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from sia_core.errors import SiaError, UsageError
from sia_core.parcels import Outcome, Sender, raised
from sia_core.plugins import Plugins
from sia_core.types import Handle, Job
from sia_modal.settings import Settings

if TYPE_CHECKING:
    from sia_modal.cloud import Cloud


class ModalBackend:
    """Runs jobs in containers of Modal; its factory takes :class:`sia_modal.settings.Settings`' fields."""

    def __init__(self, plugins: Plugins, **settings: Any) -> None:
        told = Settings.of(settings)
        try:
            from sia_modal.cloud import ModalCloud
        except ImportError as error:
            raise UsageError(f"the backend modal needs its library ({error}): pip install sia-modal") from None
        self._take(ModalCloud(told, plugins.allow), told)

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
        self._handles = 0

    def submit(self, job: Job) -> Future[Any]:
        if self._closed:
            raise SiaError("the backend is closed")
        return self._threads.submit(self._run, job)

    def serve(self, name: str, payload: Mapping[str, Any]) -> Handle:
        """``name`` is ``kind:offer``, such as ``engine:torch``. It lives while its container is asked, and a bit."""
        with self._mutex:
            self._handles += 1
            handle = _Handle(self._cloud, f"{name}/{self._handles}", name, json.dumps(dict(payload)))
        handle.call("", {})
        return handle

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
        return self._sender.keep(parcel, Outcome(**json.loads(outcome)), files)


class _Handle:
    def __init__(self, cloud: Cloud, key: str, name: str, payload: str) -> None:
        self._cloud, self._key, self._name, self._payload = cloud, key, name, payload

    def call(self, method: str, payload: Mapping[str, Any]) -> Any:
        text = self._cloud.call(self._key, self._name, self._payload, method, json.dumps(dict(payload)))
        outcome = Outcome(**json.loads(text))
        if outcome.error is not None:
            raise raised(method or self._name, outcome)
        return outcome.result

    def close(self) -> None:
        """Nothing is asked of its container any more, and Modal ends it."""
