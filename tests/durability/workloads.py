"""Small runs to be stopped anywhere, and a server that makes them in processes of their own, to be traced.

A log, which no fault is put into, tells which step's work was run, and which step was
done: what went back to whoever asked for it.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sia_core.errors import SiaError
from sia_core.harness import HarnessTree
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.plan import Plan
from sia_core.run.trees import Trees
from sia_core.types import Job, OfferRef
from sia_runtime.local import LocalBackend
from sia_runtime.worker.harness_folder import harness_folder
from sia_testing.fakes import FakeTask, InstantBackend, ScriptedImprover, edit, fake_parts

Workload = Callable[[Path], Path]
"""Makes a run in a folder, or goes on with it; returns the folder of the run."""


def ledger(folder: Path) -> Path:
    """Steps of several sizes with blobs and trees, without a loop."""
    with Ledger.create(folder) as record:
        trees = Trees(folder)
        for number in range(4):
            content = b"%d" % number * 10 ** (number + 1)
            record.step(f"blob/{number}", lambda content=content: {"blob": record.blobs.put(content)})
            record.step(f"large/{number}", lambda number=number: str(number) * 6000)
        for number in range(3):
            tree = HarnessTree({"harness.py": b"# the same in each", "lib/own.py": b"%d" % number})
            digest = record.step(f"tree/{number}", lambda tree=tree: trees.put(tree))
            harness_folder(folder, digest)
    return folder


def loop(folder: Path) -> Path:
    """The real loop with fakes around it: two generations, one promotion, a sealed report."""
    with Ledger.create(folder) as record:
        record.step("run", lambda: {"config": {"plan": {"levers": ["harness"]}}})
        improver = ScriptedImprover([edit("good", 0.7), edit("bad", 0.1)], [edit("best", 0.9, 0.7)])
        Loop(Plan(generations=2), fake_parts(record, improver, task=FakeTask(70))).improve()
    return folder


def sums(folder: Path) -> Path:
    """A real run of the example, with its sandbox and its verifier: one generation."""
    from example_runs import EXAMPLE

    from sia_core.plugins import Plugins
    from sia_core.run.run_folders import runs_in
    from sia_core.run.start import Config, resume, start

    plugins = Plugins.discover()
    for run in reversed(runs_in(folder)):
        with Ledger.read(run) as record:
            begun = record.get("run")
        if begun:
            resume(run, plugins, [])
            return run
    settings = {"seed": 0, "harness": str(EXAMPLE / "agent"), "data": str(EXAMPLE / "cases.jsonl")}
    config = Config(OfferRef("cases", settings), Plan(generations=1), verifier="exact")
    return start(config, folder, plugins, [])


WORKLOADS: dict[str, Workload] = {"ledger": ledger, "loop": loop, "sums": sums}


class Serial:
    """Instead of threads: every call of the run's ledger is made by the thread that is watched, in one order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.map = map

    def shutdown(self) -> None:
        pass

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def watched(log: Path) -> Iterator[None]:
    """Write to the log which work is run and which steps are done; and let no time pass, which is recorded."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str, key: str) -> None:
        os.write(handle, f"{what} {key}\n".encode())

    def step(self: Ledger, key: str, work: Callable[[], Any]) -> Any:
        def noted() -> Any:
            if not key.startswith("rollouts/"):  # their work is a job
                note("work", key)
            return work()

        result = plain_step(self, key, noted)
        note("done", key)
        return result

    def submitting(plain: Callable[[Any, Job], Any]) -> Callable[[Any, Job], Any]:
        def submit(self: Any, job: Job) -> Any:
            note("work", key_of(job))
            return plain(self, job)

        return submit

    plain_step = Ledger.step
    with ExitStack() as stack:
        stack.callback(os.close, handle)
        stack.enter_context(mock.patch.object(Ledger, "step", step))
        for backend in (InstantBackend, LocalBackend):
            stack.enter_context(mock.patch.object(backend, "submit", submitting(backend.submit)))
        for module in ("loop", "robustness"):
            stack.enter_context(mock.patch(f"sia_core.run.{module}.ThreadPoolExecutor", Serial))
        stack.enter_context(mock.patch("sia_core.run.loop.time", SimpleNamespace(monotonic=lambda: 0.0)))
        yield


def key_of(job: Job) -> str:
    """The step that a batch of rollouts is; of another job, its name, which is no step's."""
    sweep = job.payload.get("sweep")
    if sweep is None:
        return job.function
    return f"rollouts/{sweep['purpose']}/{sweep['agent']}/{sweep['batch']:04d}"


def serve() -> None:
    """For each line ``NAME FOLDER LOG`` on standard input fork a process that makes this run when it reads ``go``.

    Its pid is printed before, and how it ended afterwards. What a run imports is
    imported once, and a tracer that is there before ``go`` sees the run's calls alone.
    """
    while line := _line():
        pid = os.fork()
        if not pid:
            os._exit(_child(*line.split()))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _child(name: str, folder: str, log: str) -> int:
    ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)  # PR_SET_PTRACER: any process may trace this one
    _line()
    try:
        with watched(Path(log)):
            WORKLOADS[name](Path(folder))
    except SiaError as error:
        return _told(log, f"explained {error}", error.exit_code)
    except BaseException:
        return _told(log, f"failed {traceback.format_exc()}", 70)
    return 0


def _told(log: str, text: str, code: int) -> int:
    with open(log, "a", encoding="utf-8") as file:
        print(text.replace("\n", "\\n"), file=file)
    return code


def _line() -> str:
    """A line of standard input, and not a byte more: the rest is for a fork."""
    text = b""
    while not text.endswith(b"\n") and (byte := os.read(0, 1)):
        text += byte
    return text.decode()


if __name__ == "__main__":
    serve()
