"""Jobs on workers that come and go: one thread knows which is where, and hands each result out once."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sia_core.errors import SiaError
from sia_core.types import Job
from sia_runtime.jobs import JobResult, Parcel, Sender

ATTEMPTS = 10
"""How often a job may lose its worker before it is taken for the cause."""

KEPT = 256
"""Contents that stay in the cluster's store for the next worker that lacks them."""

GRACE = 10.0
"""Seconds that workers have to end their sandboxes at the close."""

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Task:
    job: Job
    future: Future[Any]
    attempts: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker, the jobs on it, and the digests that it surely has."""

    actor: Any
    ready: bool = False
    running: set[_Task] = field(default_factory=set)
    has: set[str] = field(default_factory=set)


class Pool:
    """``size`` workers, made by ``start``, with ``at_once`` jobs each at most.

    A worker that is lost is replaced, and its jobs go to whoever is free: a job's work may
    be done twice, but its future has one result. All state belongs to one thread.
    """

    def __init__(self, start: Callable[[], Any], size: int, at_once: int) -> None:
        self._start, self._at_once = start, at_once
        self._sender = Sender()
        self._references: OrderedDict[str, Any] = OrderedDict()
        self._waiting: deque[_Task] = deque()
        self._workers: set[_Worker] = set()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._closed = self._ended = False
        self.lost = 0
        for _ in range(size):
            self._hire()
        self._thread = threading.Thread(target=self._serve, name="sia-ray", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Any]:
        """Run a job somewhere."""
        task = _Task(job, Future())
        with self._mutex:
            if self._closed:
                raise SiaError("the backend is closed")
            self._events.put(partial(self._waiting.append, task))
        return task.future

    def close(self) -> None:
        """End every worker. Whoever waits for a job gets an error. May be called twice."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._events.put(self._end)
        self._thread.join()

    def _serve(self) -> None:
        while not self._ended:
            self._events.get()()
            self._dispatch()

    def _hire(self) -> None:
        worker = _Worker(self._start())
        self._workers.add(worker)
        self._when_done(worker.actor.ready.remote(), partial(self._arrived, worker))

    def _arrived(self, worker: _Worker, future: Future[Any]) -> None:
        if future.exception() is None:
            worker.ready = True
        else:
            self._replace(worker, future.exception())

    def _dispatch(self) -> None:
        while self._waiting and not self._ended:
            free = [each for each in self._workers if each.ready and len(each.running) < self._at_once]
            if not free:
                return
            task = self._waiting.popleft()
            if task.attempts or task.future.set_running_or_notify_cancel():
                self._send(min(free, key=lambda each: len(each.running)), task)

    def _send(self, worker: _Worker, task: _Task) -> None:
        try:
            parcel = self._sender.pack(task.job)
            text = json.dumps(parcel.to_json())
            lacking = {digest: self._reference(digest) for digest in {*parcel.files.values()} - worker.has}
        except Exception as error:
            task.future.set_exception(error)
            return
        task.attempts += 1
        worker.running.add(task)
        self._when_done(worker.actor.run.remote(text, lacking), partial(self._done, worker, task, parcel))

    def _reference(self, digest: str) -> Any:
        """A content in the cluster's store, which moves it to each node at most once."""
        if digest not in self._references:
            self._references[digest] = ray.put(self._sender.content(digest))
            if len(self._references) > KEPT:
                self._references.popitem(last=False)
        self._references.move_to_end(digest)
        return self._references[digest]

    def _done(self, worker: _Worker, task: _Task, parcel: Parcel, future: Future[Any]) -> None:
        worker.running.discard(task)
        error = future.exception()
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            self._replace(worker, error)
            self._again(task, error)
            return
        try:
            if error is not None:
                raise error
            outcome, files = future.result()
            worker.has.update(parcel.files.values())
            result = self._sender.keep(parcel, JobResult.read(outcome), files)
        except Exception as failed:
            task.future.set_exception(failed)
        else:
            task.future.set_result(result)

    def _again(self, task: _Task, error: BaseException) -> None:
        if task.attempts < ATTEMPTS:
            self._waiting.appendleft(task)
            return
        why = f"{task.job.function} lost its worker {task.attempts} times; it may be what ends them: {_short(error)}"
        task.future.set_exception(SiaError(why))

    def _replace(self, worker: _Worker, error: BaseException | None) -> None:
        """Put another in the place of a worker that is lost. Its other jobs tell of it by themselves."""
        if worker not in self._workers:
            return
        _LOG.warning("a worker was lost and is replaced: %s", _short(error))
        self._workers.remove(worker)
        self.lost += 1
        ray.kill(worker.actor)
        self._hire()

    def _when_done(self, reference: Any, then: Callable[[Future[Any]], None]) -> None:
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda each: self._events.put(partial(then, each)))

    def _end(self) -> None:
        self._ended = True
        abandoned = [*self._waiting, *(task for worker in self._workers for task in worker.running)]
        while True:  # jobs that were handed in just before
            try:
                self._events.get_nowait()()
            except queue.Empty:
                break
        for task in [*abandoned, *self._waiting]:
            if not task.future.cancel():
                with suppress(InvalidStateError):
                    task.future.set_exception(SiaError("the backend was closed before this job was done"))
        stopping = [worker.actor.stop.remote() for worker in self._workers if worker.ready]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=GRACE)
        for worker in self._workers:
            ray.kill(worker.actor)


def _short(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
