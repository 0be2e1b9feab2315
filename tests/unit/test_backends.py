"""The local backend keeps the contract of backends, and backends that break it do not pass."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sia_core.plugins import Plugins
from sia_core.types import Job, OnProgress
from sia_runtime.local import LocalBackend
from sia_testing.backends import BackendContract


class TestLocal(BackendContract):
    @pytest.fixture
    def backend(self) -> Iterator[LocalBackend]:
        backend = LocalBackend(Plugins.discover(allow=""))
        yield backend
        backend.close()


class Losing(LocalBackend):
    def submit(self, job: Job) -> Future[Any]:
        future = super().submit(job)
        return Future() if job.payload["value"]["place"] == 7 else future


class Swapping(LocalBackend):
    """Hands the result of the job before to whoever asks."""

    def __init__(self, plugins: Plugins) -> None:
        super().__init__(plugins)
        self._before: Future[Any] | None = None

    def submit(self, job: Job) -> Future[Any]:
        mine = super().submit(job)
        theirs, self._before = self._before, mine
        return theirs or mine


class Repeating(LocalBackend):
    def submit(self, job: Job) -> Future[Any]:
        super().submit(job).result()
        return super().submit(job)


class Swallowing(LocalBackend):
    def submit(self, job: Job) -> Future[Any]:
        whole, quiet = super().submit(job), Future[Any]()
        quiet.set_result(None if whole.exception() else whole.result())
        return quiet


class Flattening(LocalBackend):
    """Says of every error only that there was one."""

    def submit(self, job: Job) -> Future[Any]:
        whole, future = super().submit(job), Future[Any]()
        future.set_exception(RuntimeError("a job failed")) if whole.exception() else future.set_result(whole.result())
        return future


class OneByOne(LocalBackend):
    def __init__(self, plugins: Plugins) -> None:
        super().__init__(plugins)
        self._threads._max_workers = 1


class Leaking(LocalBackend):
    """Runs jobs in a process that it forgets."""

    def submit(self, job: Job) -> Future[Any]:
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_wait, args=(here, there), daemon=True)
        child.start()
        self.kept = here, child
        future: Future[Any] = Future()
        future.set_result([child.pid, 0])
        return future


def _wait(here: Any, there: Any) -> None:
    here.close()
    there.poll(None)
    os._exit(0)


class Undying(LocalBackend):
    def close(self) -> None:
        self._host.stop()


class Late(LocalBackend):
    """Hands reports on when their job has ended."""

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        reports: list[Mapping[str, Any]] = []

        def hand_on(future: Future[Any]) -> None:
            for each in reports:
                on_progress(each)

        future = super().submit_watched(job, reports.append)
        future.add_done_callback(hand_on)
        return future


class Stammering(LocalBackend):
    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        def listen(figures: Mapping[str, Any]) -> None:
            on_progress(figures)
            on_progress(figures)

        return super().submit_watched(job, listen)


class Enduring(LocalBackend):
    """Goes on whatever a listener raises."""

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        def listen(figures: Mapping[str, Any]) -> None:
            with suppress(Exception):
                on_progress(figures)

        return super().submit_watched(job, listen)


class TestBroken(BackendContract):
    __test__ = False
    seconds: ClassVar[float] = 0.5


BROKEN = [
    (Losing, "test_every_job_has_its_own_result"),
    (Swapping, "test_every_job_has_its_own_result"),
    (Repeating, "test_a_job_runs_once"),
    (Swallowing, "test_any_other_error_is_an_error_too_and_the_next_job_runs"),
    (Flattening, "test_an_error_of_the_cores_arrives_as_it_was_raised"),
    (OneByOne, "test_as_many_jobs_as_it_has_room_for_run_side_by_side"),
    (Late, "test_reports_of_a_job_arrive_once_and_in_order_while_it_runs"),
    (Stammering, "test_reports_of_a_job_arrive_once_and_in_order_while_it_runs"),
    (Enduring, "test_a_listener_that_raises_ends_its_job_and_the_next_one_runs"),
    (Leaking, "test_when_it_is_closed_nothing_of_it_is_left"),
    (Undying, "test_when_it_is_closed_nothing_of_it_is_left"),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=lambda each: getattr(each, "__name__", each))
def test_a_backend_that_breaks_the_contract_fails_it(broken: type[LocalBackend], test: str, tmp_path: Path) -> None:
    backend = broken(Plugins.discover(allow=""))
    arguments = {"tmp_path": tmp_path, "kind": "ValueError" if "other" in test else "UsageError"}
    method = getattr(TestBroken(), test)
    selection = {name: value for name, value in arguments.items() if name in method.__code__.co_varnames}
    try:
        with pytest.raises((Exception, pytest.fail.Exception)):
            method(backend, **selection)
    finally:
        LocalBackend.close(backend)
