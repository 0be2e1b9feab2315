"""Jobs on workers that come and go, with a stand-in for Ray; and what is said where it cannot be used."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from sia_core.errors import SiaError, UsageError
from sia_core.plugins import Plugins
from sia_ray import pool as pool_module
from sia_ray.backend import RayBackend
from sia_ray.pool import ATTEMPTS, Pool
from sia_ray.settings import Settings
from sia_runtime.jobs import JobResult
from sia_runtime.reporting import KEPT, LastReports
from sia_testing.backends import echo, job

SECONDS = 30.0


class Reference:
    """A result that will be there, as Ray hands it out."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def future(self) -> Future[Any]:
        return self._future


class Method:
    def __init__(self, call: Callable[..., Future[Any]]) -> None:
        self.remote = lambda *arguments: Reference(self._called(call, arguments))

    def _called(self, call: Callable[..., Future[Any]], arguments: Any) -> Future[Any]:
        return call(*arguments)


def done(value: Any = None, error: BaseException | None = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error) if error else future.set_result(value)
    return future


class Actor:
    """A worker: ``answer(worker, parcel)`` is its result, an error of Ray's, or a future of either."""

    def __init__(self, number: int, answer: Callable[[Actor, Any], Any]) -> None:
        self.number, self.killed, self.stopped = number, False, False
        self._answer = answer
        self.ready, self.run, self.stop = Method(lambda: done(number)), Method(self._run), Method(self._stop)
        self.asked: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        self.reports = Method(self._reports)

    def _reports(self, number: int, count: int) -> Future[Any]:
        answer: Future[Any] = Future()
        self.asked.put((count, answer))
        return answer

    def _run(self, number: int, parcel: str, references: Any) -> Future[Any]:
        answer = self._answer(self, json.loads(parcel))
        if isinstance(answer, Future):
            return answer
        return done(error=answer) if isinstance(answer, BaseException) else done(answer)

    def _stop(self) -> Future[Any]:
        self.stopped = True
        return done()


class World:
    """Ray's stand-in, the workers that were made, and a pool of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.actors: list[Actor] = []
        self.answer: Callable[[Actor, Any], Any] = lambda actor, parcel: result(parcel["payload"]["value"])
        monkeypatch.setattr(pool_module.ray, "kill", self._kill)
        monkeypatch.setattr(pool_module.ray, "wait", lambda references, **_: (references, []))

    def pool(self, size: int = 2) -> Pool:
        return Pool(self._start, size, 2)

    def _start(self) -> Actor:
        self.actors.append(Actor(len(self.actors), lambda actor, parcel: self.answer(actor, parcel)))
        return self.actors[-1]

    def _kill(self, actor: Actor) -> None:
        actor.killed = True


def result(value: Any, count: int = 0) -> tuple[str, dict[str, bytes], str]:
    return JobResult(value).text(), {}, reports(count)


def reports(count: int, after: int = 0) -> str:
    """The reports of a job that counts up, as a worker gives them."""
    last = LastReports()
    for number in range(1, count + 1):
        last({"number": number})
    return last.after(after)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_job_whose_worker_is_lost_runs_on_another_and_has_one_result(world: World) -> None:
    runs: list[int] = []

    def answer(actor: Actor, parcel: Any) -> Any:
        runs.append(parcel["payload"]["value"])
        return RayActorError() if actor.number < 2 else result(parcel["payload"]["value"])

    world.answer = answer
    pool = world.pool()
    futures = [pool.submit(job(echo, value=place)) for place in range(20)]
    assert [each.result(SECONDS) for each in futures] == list(range(20))
    pool.close()
    assert [actor.killed for actor in world.actors] == [True] * 4
    assert len(runs) > 20


def test_a_result_of_a_worker_that_was_replaced_meanwhile_still_counts_once(world: World) -> None:
    late: Future[Any] = Future()

    def answer(actor: Actor, parcel: Any) -> Any:
        if parcel["payload"]["value"] == "late":
            return late
        return RayActorError() if actor.number == 0 else result("next")

    world.answer = answer
    pool = world.pool(size=1)
    first = pool.submit(job(echo, value="late"))
    assert pool.submit(job(echo, value="next")).result(SECONDS) == "next"
    late.set_result(result("late"))
    assert first.result(SECONDS) == "late"
    pool.close()


def test_a_job_that_ends_every_worker_is_an_error_in_the_end(world: World) -> None:
    world.answer = lambda actor, parcel: RayActorError()
    pool = world.pool()
    with pytest.raises(SiaError, match=f"lost its worker {ATTEMPTS} times"):
        pool.submit(job(echo, value=1)).result(SECONDS)
    pool.close()


def test_at_the_close_whoever_waits_gets_an_error_and_workers_end_their_sandboxes(world: World) -> None:
    started = threading.Semaphore(0)

    def answer(actor: Actor, parcel: Any) -> Any:
        started.release()
        return Future()

    world.answer = answer
    pool = world.pool()
    futures = [pool.submit(job(echo, value=place)) for place in range(9)]
    for _ in range(4):
        assert started.acquire(timeout=SECONDS)
    pool.close()
    for each in futures:
        with pytest.raises((SiaError, CancelledError)):
            each.result(SECONDS)
    assert all(actor.stopped and actor.killed for actor in world.actors)
    with pytest.raises(SiaError, match="closed"):
        pool.submit(job(echo, value=1))


def test_a_job_that_cannot_be_packed_is_its_own_error(world: World) -> None:
    pool = world.pool()
    with pytest.raises(TypeError):
        pool.submit(job(echo, value={1, 2})).result(SECONDS)
    assert pool.submit(job(echo, value=1)).result(SECONDS) == 1
    pool.close()


class Watched:
    """A job on a pool of one worker; what it reports, and the answers that its worker owes."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "ASK_SECONDS", 0.01)
        self.numbers: list[Any] = []
        self.error: BaseException | None = None
        self.runs: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        world.answer = lambda actor, parcel: self._run()
        self._world, self.pool = world, world.pool(size=1)
        self.future = self.pool.submit(job(echo, value=1), self.listen)
        self.running = self.runs.get(timeout=SECONDS)

    def _run(self) -> Future[Any]:
        future: Future[Any] = Future()
        self.runs.put(future)
        return future

    def listen(self, figures: Mapping[str, Any]) -> None:
        if self.error:
            raise self.error
        self.numbers.append(figures["number"])

    def asked(self) -> tuple[int, Future[Any]]:
        """The next question to the newest worker: how many reports are known, and where the answer goes."""
        return self._world.actors[-1].asked.get(timeout=SECONDS)


@pytest.fixture
def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched(world, monkeypatch)
    yield watched
    watched.pool.close()


def test_reports_are_handed_on_while_the_job_runs_and_the_last_ones_with_its_result(watched: Watched) -> None:
    for count in (0, 2, 5):
        known, answer = watched.asked()
        answer.set_result(reports(count, known))
    assert watched.asked()[0] == 5
    assert watched.numbers == [1, 2, 3, 4, 5]
    watched.running.set_result(result("whole", 7))
    assert watched.future.result(SECONDS) == "whole"
    assert watched.numbers == [1, 2, 3, 4, 5, 6, 7]


def test_an_answer_that_comes_after_the_result_is_passed_over(watched: Watched) -> None:
    _, answer = watched.asked()
    watched.running.set_result(result("whole", 3))
    assert watched.future.result(SECONDS) == "whole"
    answer.set_result(reports(5))
    watched.pool.close()
    assert watched.numbers == [1, 2, 3]


@pytest.mark.parametrize("end", [result("whole", 1), RayActorError()], ids=["result", "lost"])
def test_a_listener_that_raises_ends_its_job_once_and_the_next_one_runs(watched: Watched, end: Any) -> None:
    watched.error = KeyboardInterrupt("enough")
    watched.asked()[1].set_result(reports(1))
    with pytest.raises(KeyboardInterrupt, match="enough"):
        watched.future.result(SECONDS)
    if isinstance(end, BaseException):
        watched.running.set_exception(end)
    else:
        watched.running.set_result(end)
    later = watched.pool.submit(job(echo, value=2))
    watched.runs.get(timeout=SECONDS).set_result(result("next"))
    assert later.result(SECONDS) == "next"
    assert watched.runs.empty()


def test_a_job_that_is_run_again_repeats_no_report(watched: Watched) -> None:
    watched.asked()[1].set_result(reports(2))
    watched.asked()[1].set_exception(RayActorError())
    watched.running.set_exception(RayActorError())
    watched.runs.get(timeout=SECONDS).set_result(result("again", 4))
    assert watched.future.result(SECONDS) == "again"
    assert watched.numbers == [1, 2, 3, 4]


def test_of_more_reports_than_a_worker_keeps_the_last_ones_are_heard(watched: Watched) -> None:
    watched.running.set_result(result("whole", KEPT + 10))
    assert watched.future.result(SECONDS) == "whole"
    assert watched.numbers == list(range(11, KEPT + 11))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "no JSON",
        "[" * 100_000,
        "[1]",
        '[-1, [{"number": 1}]]',
        '[1, [{"number": NaN}]]',
        '[1, [{"number": 1e400}]]',
        '[1, [{"number": 1' + "0" * 4000 + "}]]",
        '[1, [{"number": true}]]',
        '[1, [{"number": "\u001b[2J"}]]',
        '[1, [{"' + "number" * 20 + '": 1}]]',
        "[1, [" + ", ".join(['{"number": 1}'] * (KEPT + 1)) + "]]",
        '[1, [{"number": 1}]]' + " " * 2_000_000,
    ],
    ids=range(13),
)
def test_what_is_no_report_is_passed_over_and_the_job_has_its_result(
    text: Any, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.asked()[1].set_result(text)
    watched.running.set_result((JobResult("whole").text(), {}, text))
    assert watched.future.result(SECONDS) == "whole"
    assert watched.numbers == []
    assert "a worker's reports have not the form of reports" in caplog.text
    assert len(caplog.text) < 2000


def test_a_job_that_nobody_listens_to_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ASK_SECONDS", 0.01)
    pool = world.pool(size=1)
    assert pool.submit(job(echo, value=1)).result(SECONDS) == 1
    pool.close()
    assert world.actors[0].asked.empty()


def test_without_the_library_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="pip install sia-ray"):
        RayBackend(Plugins())


def test_a_cluster_that_does_not_start_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UsageError, match="no cluster at this machine: The current node timed out"):
        RayBackend(Plugins())


def test_a_setting_that_cannot_be_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match=r"workers.*The settings are address, workers"):
        RayBackend(Plugins(), workers="many")


def test_a_worker_with_a_gpu_runs_one_job_at_a_time() -> None:
    assert Settings(gpus=1).at_once == 1
    assert Settings().at_once == 2
