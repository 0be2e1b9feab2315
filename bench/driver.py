"""How many results a second the driver books, with its ledger on and workers that answer at once; and its memory.

    python bench/driver.py [--workers 64] [--results 3000] [--least 300]

A result is what one job came to: the rollouts of a batch, 64 of them, or a single one. Everything of the driver's is
real: jobs are packed and unpacked as they are for a backend elsewhere, sweeps run side by side, and each
result is a step of the ledger, committed to disk. The work is not: a worker is a thread that hands out rollouts
that are ready. With ``--least``, the exit code is 1 where fewer results a second are booked, or where
memory grows with what is finished.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import Job, OfferRef
from sia_runtime.jobs import JobResult, Parcel, Sender

ABREAST = 4
"""Sweeps that run side by side, as candidates do."""

GROWTH = 64.0
"""Bytes of memory that one finished result may leave behind: less than any of what it holds."""


class Instant:
    """As many threads as workers, each of which answers with rollouts that are ready; a backend."""

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._sender = Sender()
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, job: Job) -> Future[Any]:
        parcel = self._sender.pack(job)
        return self._threads.submit(self._booked, parcel, json.dumps(parcel.to_json()))

    def _booked(self, parcel: Parcel, text: str) -> Any:
        """There and back again as text, as between machines. What is done there is no work of the driver's."""
        sweep = parcel.payload["sweep"]
        outcome = _answer(tuple(sweep["instances"]), sweep["group"])
        return self._sender.keep(parcel, JobResult(**json.loads(outcome)), {})

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


@lru_cache(1024)
def _answer(instances: tuple[str, ...], group: int) -> str:
    """The outcome that a worker sends."""
    each = Rollout("", "ok", 1.0, answer='"theft"', log="thought a while", seconds=0.01)
    rollouts = [replace(each, instance=name).to_json() for name in instances for _ in range(group)]
    return JobResult({"sandbox": "none", "given_up": "", "rollouts": rollouts}).text()


@dataclass(frozen=True)
class Figure:
    """Results a second, the driver's milliseconds of processor for one, and bytes that each left behind."""

    rate: float
    cost: float
    growth: float


def measure(folder: Path, workers: int, results: int, size: int) -> Figure:
    """Book ``results`` results of ``size`` rollouts in sweeps of 100, and again with memory watched."""
    backend = Instant(workers)
    with Ledger.create(folder) as ledger:
        tree = Trees(folder).put(HarnessTree({"harness.py": b"def solve(instance, ctx): ...\n"}))
        setting = Setting(str(folder), OfferRef("fake"), OfferRef("exact"), "none", 0)
        rollouts = Rollouts(setting, ledger, backend, Emitter())
        try:
            _sweeps(rollouts, tree, "warm", 4, size)
            before, started = _processor(), time.perf_counter()
            _sweeps(rollouts, tree, "bench", results // 100, size)
            seconds, used = time.perf_counter() - started, _processor() - before
            growth = _growth(rollouts, tree, size)
        finally:
            backend.close()
    count = results // 100 * 100
    return Figure(count / seconds, 1000 * used / count, growth)


def _sweeps(rollouts: Rollouts, tree: str, purpose: str, count: int, size: int) -> None:
    """Sweeps of 100 results each; what they came to is dropped, as the loop drops it."""

    def sweep(number: int) -> int:
        names = tuple(f"search-{place}" for place in range(100))
        kind, group = (Sweep, 64) if size == 64 else (Alone, 1)
        return len(rollouts.run(kind(f"{purpose}-{number}", "agent", tree, "search", names, group=group)))

    with ThreadPoolExecutor(ABREAST) as threads:
        assert sum(threads.map(sweep, range(count))) == count * 100 * size


class Alone(Sweep):
    """A sweep whose batches hold one rollout."""

    def batches(self) -> list[tuple[str, Sweep]]:
        places = range(len(self.instances))
        return [
            (f"rollouts/{self.purpose}/{self.agent}/{place:04d}", self.part(place, place + 1, place))
            for place in places
        ]


def _growth(rollouts: Rollouts, tree: str, size: int) -> float:
    """Bytes that Python holds more for each result, between the end of some and the end of many more."""
    tracemalloc.start()
    sizes = []
    for part, sweeps in (("few", 1), ("more", 1), ("many", 4)):
        _sweeps(rollouts, tree, part, sweeps, size)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return (sizes[2] - sizes[1]) / 400


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--results", type=int, default=3000)
    parser.add_argument("--least", type=float, default=0.0)
    options = parser.parse_args()
    enough = True
    for size in (64, 1):
        with tempfile.TemporaryDirectory(prefix="sia-bench-") as name:
            figure = measure(Path(name) / "run", options.workers, options.results, size)
        print(
            f"{options.workers} workers, {size:2} rollouts a result: {figure.rate:6.0f} results/s, "
            f"{figure.cost:.2f} ms of processor each, {figure.growth:+.1f} bytes left behind by each",
            flush=True,
        )
        enough &= figure.rate >= options.least and figure.growth <= GROWTH
    return 0 if enough or not options.least else 1


if __name__ == "__main__":
    sys.exit(main())
