"""The contract of backends, for plugin authors to inherit, and the jobs that hold a backend to it."""

from __future__ import annotations

import json
import os
import select
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sia_core import errors
from sia_core.errors import SiaError
from sia_core.harness import HarnessTree
from sia_core.run.rollouts import Setting
from sia_core.run.trees import ADAPTERS, Trees
from sia_core.types import Backend, Job, OfferRef, ReportsProgress
from sia_runtime.reporting import report
from sia_runtime.worker.harness_folder import harness_folder
from sia_runtime.worker.host import Host

HERE = __name__
TREE = HarnessTree({"harness.py": b"def solve(instance, ctx): ...\n", "notes/empty.txt": b""})
ADAPTER, TRAINED, AGAIN = "aa" * 32, "bb" * 32, "cc" * 32


def echo(payload: Mapping[str, Any], host: Host) -> Any:
    """The job: what it was given."""
    return payload["value"]


def leave_a_mark(payload: Mapping[str, Any], host: Host) -> None:
    """The job: a line more in a file, written at once."""
    handle = os.open(payload["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{payload['value']}\n".encode())
    finally:
        os.close(handle)


def fail(payload: Mapping[str, Any], host: Host) -> None:
    """The job: an error by the name of its type."""
    kind = getattr(errors, payload["type"], None) or getattr(__import__("builtins"), payload["type"])
    raise kind(payload["message"])


def meet(payload: Mapping[str, Any], host: Host) -> str:
    """The job: return only when another job is at the other end of a pipe."""
    with open(payload["pipe"], payload["mode"]):
        return str(payload["mode"])


def count_up(payload: Mapping[str, Any], host: Host) -> str:
    """The job: report numbers up to one, and end when another process is at a pipe."""
    for number in range(1, payload["numbers"] + 1):
        report(number=number)
    return meet({**payload, "mode": "rb"}, host)


def whereabouts(payload: Mapping[str, Any], host: Host) -> list[int]:
    """The job: the process that it runs in, and which host it was given."""
    assert isinstance(host, Host)
    return [os.getpid(), id(host)]


def read(payload: Mapping[str, Any], host: Host) -> dict[str, str]:
    """The job: a harness, an adapter and a file of the user's, as they are where it runs."""
    setting, sweep = Setting.from_json(payload["setting"]), payload["sweep"]
    run, data = Path(setting.run), setting.task.settings["data"]
    files = {path: content.decode() for path, content in Trees(run).get(sweep["harness"]).files.items()}
    return {
        **files,
        "folder": (harness_folder(run, sweep["harness"]) / "harness.py").read_text(),
        "weights": (run / ADAPTERS / sweep["adapter"] / "weights").read_text(),
        "data": Path(data).read_text(),
    }


def train(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: an adapter that is made from another."""
    adapters = Path(Setting.from_json(payload["setting"]).run) / ADAPTERS
    before = (adapters / payload["adapter"] / "weights").read_text()
    (adapters / TRAINED / "optimizer").mkdir(parents=True, exist_ok=True)
    (adapters / TRAINED / "weights").write_text(before + " and trained")
    (adapters / TRAINED / "optimizer" / "moments").write_text("moments")
    return {"adapter": TRAINED, "steps": []}


def job(function: Callable[..., Any], **payload: Any) -> Job:
    """A job of one of these functions."""
    return Job(f"{HERE}:{function.__name__}", payload)


class BackendContract:
    """``class TestMine(BackendContract)`` with a fixture ``backend`` that gives a fresh one and closes it.

    ``seconds`` is how long the contract waits for a job before it counts as lost. The
    jobs run on this machine, whatever runs them: they leave marks in files.
    """

    seconds: ClassVar[float] = 60.0

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        raise NotImplementedError

    def result(self, future: Future[Any]) -> Any:
        """A job's result; fails the test where none comes in time."""
        return future.result(self.seconds)

    def test_it_is_a_backend_with_room_for_jobs(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.slots >= 1

    def test_every_job_has_its_own_result(self, backend: Backend) -> None:
        values = [
            {"place": place, "text": "偷 \u2028\ud800", "none": None, "list": [1.5, True]} for place in range(200)
        ]
        futures = [backend.submit(job(echo, value=value)) for value in values]
        assert [self.result(each) for each in futures] == values

    def test_a_job_runs_once(self, backend: Backend, tmp_path: Path) -> None:
        file = tmp_path / "marks"
        for each in [backend.submit(job(leave_a_mark, file=str(file), value=place)) for place in range(50)]:
            assert self.result(each) is None
        assert sorted(map(int, file.read_text().split())) == list(range(50))

    @pytest.mark.parametrize("kind", ["UsageError", "TrainingError", "NoSignal", "SandboxError"])
    def test_an_error_of_the_cores_arrives_as_it_was_raised(self, backend: Backend, kind: str) -> None:
        future = backend.submit(job(fail, type=kind, message="this is why"))
        with pytest.raises(SiaError, match=r"^this is why$") as raised:
            self.result(future)
        assert type(raised.value).__name__ == kind

    @pytest.mark.parametrize("kind", ["ValueError", "KeyError", "MemoryError", "SystemExit"])
    def test_any_other_error_is_an_error_too_and_the_next_job_runs(self, backend: Backend, kind: str) -> None:
        future = backend.submit(job(fail, type=kind, message="this is why"))
        with pytest.raises((Exception, SystemExit), match="this is why"):
            self.result(future)
        assert self.result(backend.submit(job(echo, value="next"))) == "next"

    @pytest.mark.parametrize("function", ["sia_runtime.nowhere:job", f"{HERE}:nothing"])
    def test_a_function_that_is_not_there_is_an_error(self, backend: Backend, function: str) -> None:
        with pytest.raises(Exception, match=r"nowhere|nothing"):
            self.result(backend.submit(Job(function, {})))

    def test_as_many_jobs_as_it_has_room_for_run_side_by_side(self, backend: Backend, tmp_path: Path) -> None:
        if backend.slots < 2:
            pytest.skip("this backend has room for one job")
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        futures = [backend.submit(job(meet, pipe=str(pipe), mode=mode)) for mode in ("rb", "wb")]
        try:
            assert [self.result(each) for each in futures] == ["rb", "wb"]
        finally:
            both = os.open(pipe, os.O_RDWR)  # whoever is still at the pipe goes on
            wait(futures, self.seconds)
            os.close(both)

    def test_reports_of_a_job_arrive_once_and_in_order_while_it_runs(self, backend: Backend, tmp_path: Path) -> None:
        if not isinstance(backend, ReportsProgress):
            pytest.skip("this backend passes on no reports")
        pipe, numbers, heard = tmp_path / "pipe", [], threading.Event()
        os.mkfifo(pipe)

        def listen(figures: Mapping[str, Any]) -> None:
            numbers.append(figures["number"])
            if len(numbers) == 20:
                heard.set()

        future = backend.submit_watched(job(count_up, numbers=20, pipe=str(pipe)), listen)
        in_time = heard.wait(self.seconds)
        running = not future.done()
        both = os.open(pipe, os.O_RDWR)  # the job goes on
        assert self.result(future) == "rb"
        os.close(both)
        assert in_time
        assert running
        assert numbers == list(range(1, 21))

    def test_a_listener_that_raises_ends_its_job_and_the_next_one_runs(self, backend: Backend, tmp_path: Path) -> None:
        if not isinstance(backend, ReportsProgress):
            pytest.skip("this backend passes on no reports")
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        def stop(figures: Mapping[str, Any]) -> None:
            raise LookupError("enough")

        future = backend.submit_watched(job(count_up, numbers=1, pipe=str(pipe)), stop)
        try:
            with pytest.raises(LookupError, match="enough"):
                self.result(future)
        finally:
            both = os.open(pipe, os.O_RDWR)  # a job that goes on ends
            wait([future], self.seconds)
            os.close(both)
        assert self.result(backend.submit(job(echo, value="next"))) == "next"

    def test_a_worker_keeps_its_host(self, backend: Backend) -> None:
        pairs = [self.result(backend.submit(job(whereabouts))) for _ in range(20)]
        hosts = dict(pairs)
        assert all(hosts[process] == host for process, host in pairs)

    def test_what_a_job_needs_of_the_run_is_there(self, backend: Backend, tmp_path: Path) -> None:
        setting, tree = a_run(tmp_path)
        future = backend.submit(job(read, setting=setting, sweep={"harness": tree, "adapter": ADAPTER}))
        code = TREE.files["harness.py"].decode()
        files = {"harness.py": code, "notes/empty.txt": "", "folder": code, "weights": "weights", "data": "cases"}
        assert self.result(future) == files

    def test_an_adapter_of_the_same_content_under_another_name_is_there_too(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        setting, tree = a_run(tmp_path)
        adapters = Path(setting["run"]) / ADAPTERS
        shutil.copytree(adapters / ADAPTER, adapters / AGAIN)
        for name in (ADAPTER, AGAIN):
            future = backend.submit(job(read, setting=setting, sweep={"harness": tree, "adapter": name}))
            assert self.result(future)["weights"] == "weights"

    def test_a_file_of_the_users_is_the_one_of_the_moment(self, backend: Backend, tmp_path: Path) -> None:
        setting, tree = a_run(tmp_path)
        for text in ("cases", "other cases"):
            (tmp_path / "cases.jsonl").write_text(text)
            future = backend.submit(job(read, setting=setting, sweep={"harness": tree, "adapter": ADAPTER}))
            assert self.result(future)["data"] == text

    def test_an_adapter_that_was_trained_is_here_when_its_job_is_done(self, backend: Backend, tmp_path: Path) -> None:
        setting, _ = a_run(tmp_path)
        result = self.result(backend.submit(job(train, setting=setting, adapter=ADAPTER)))
        folder = Path(setting["run"]) / ADAPTERS / result["adapter"]
        assert (folder / "weights").read_text() == "weights and trained"
        assert (folder / "optimizer" / "moments").read_text() == "moments"
        again = self.result(backend.submit(job(train, setting=setting, adapter=result["adapter"])))
        assert again["adapter"] == TRAINED

    def test_when_it_is_closed_nothing_of_it_is_left(self, backend: Backend) -> None:
        threads = set(threading.enumerate())
        processes = {self.result(backend.submit(job(whereabouts)))[0] for _ in range(20)} - {os.getpid()}
        watched = [os.pidfd_open(process) for process in processes]
        backend.close()
        backend.close()
        for each in watched:
            ended, _, _ = select.select([each], [], [], self.seconds)
            os.close(each)
            assert ended, "a worker outlived its backend"
        remaining = [each for each in set(threading.enumerate()) - threads if each.name.startswith("sia")]
        assert not [each for each in remaining if each.is_alive()], remaining
        with pytest.raises((Exception, CancelledError)):
            self.result(backend.submit(job(echo, value="late")))


def a_run(folder: Path) -> tuple[dict[str, Any], str]:
    """The folder of a run with a harness and an adapter: its setting as JSON, and the harness's digest."""
    run = folder / "run"
    tree = Trees(run).put(TREE)
    (run / ADAPTERS / ADAPTER).mkdir(parents=True)
    (run / ADAPTERS / ADAPTER / "weights").write_text("weights")
    (folder / "cases.jsonl").write_text("cases")
    task = OfferRef("cases", {"data": str(folder / "cases.jsonl"), "seed": 0})
    setting: dict[str, Any] = json.loads(json.dumps(asdict(Setting(str(run), task, OfferRef("exact"), "process", 0))))
    return setting, tree
