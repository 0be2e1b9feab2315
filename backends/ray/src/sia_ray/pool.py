"""Jobs on workers that come and go: one thread knows which is where, and hands each result out once."""

from __future__ import annotations

import itertools
import json
import logging
import queue
import threading
import time
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
from sia_core.types import Job, OnProgress
from sia_runtime.jobs import JobResult, Parcel, Sender
from sia_runtime.reporting import read_reports

ATTEMPTS = 10
"""How often a job may lose its worker before it is taken for the cause."""

KEPT = 256
"""Contents that stay in the cluster's store for the next worker that lacks them."""

GRACE = 10.0
"""Seconds that workers have to end their sandboxes at the close."""

ASK_SECONDS = 1.0
"""Time between two questions to a worker how far a job is."""

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Task:
    job: Job
    future: Future[Any]
    number: int
    on_progress: OnProgress | None = None
    attempts: int = 0
    heard: int = 0
    """Its reports that were handed on. A job that is run again makes the same ones again."""
    asked: bool = False


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
        self._watched: dict[_Task, _Worker] = {}
        self._numbers = itertools.count()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._closed = self._ended = False
        self.lost = 0
        for _ in range(size):
            self._hire()
        self._thread = threading.Thread(target=self._serve, name="sia-ray", daemon=True)
        self._thread.start()

    def submit(self, job: Job, on_progress: OnProgress | None = None) -> Future[Any]:
        """Run a job somewhere. Its reports are handed on in the pool's thread."""
        task = _Task(job, Future(), next(self._numbers), on_progress)
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
        due = 0.0
        while not self._ended:
            try:
                event = self._events.get(timeout=max(0.0, due - time.monotonic()) if self._watched else None)
            except queue.Empty:
                pass
            else:
                event()
            if self._watched and time.monotonic() >= due:
                due = time.monotonic() + ASK_SECONDS
                self._ask()
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
        if task.on_progress:
            self._watched[task] = worker
        run = worker.actor.run.remote(task.number, text, lacking)
        self._when_done(run, partial(self._done, worker, task, parcel))

    def _ask(self) -> None:
        """Ask how far the watched jobs are, but none whose worker owes an answer."""
        for task, worker in self._watched.items():
            if not task.asked:
                task.asked = True
                answer = worker.actor.reports.remote(task.number, task.heard)
                self._when_done(answer, partial(self._answered, task))

    def _answered(self, task: _Task, future: Future[Any]) -> None:
        task.asked = False
        if future.exception() is not None or task not in self._watched:
            return
        try:
            self._hand_on(task, future.result())
        except BaseException as error:  # a listener that raises ends the job, as it does where jobs run here
            del self._watched[task]
            task.future.set_exception(error)

    def _hand_on(self, task: _Task, text: str) -> None:
        """Hand the reports that are new to the job's listener, if it has one."""
        if task.on_progress is None:
            return
        try:
            count, reports = read_reports(text)
        except SiaError as error:
            self._watched.pop(task, None)  # nothing better is to be expected of this worker
            _LOG.warning("%s: %s", task.job.function, error)
            return
        new, task.heard = count - task.heard, max(count, task.heard)
        for figures in reports[-new:] if new > 0 else ():
            task.on_progress(figures)

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
        self._watched.pop(task, None)
        error = future.exception()
        lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        if lost:
            self._replace(worker, error)
        if task.future.done():  # its listener raised
            return
        if lost:
            self._again(task, error)
            return
        try:
            if error is not None:
                raise error
            outcome, files, reports = future.result()
            worker.has.update(parcel.files.values())
            self._hand_on(task, reports)
            result = self._sender.keep(parcel, JobResult.read(outcome), files)
        except BaseException as failed:
            task.future.set_exception(failed)
        else:
            task.future.set_result(result)

    def _again(self, task: _Task, error: BaseException | None) -> None:
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
