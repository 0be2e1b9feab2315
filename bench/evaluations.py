"""How many new candidates a second this machine evaluates, with sandbox, verifier and ledger on.

    python bench/evaluations.py [--candidates 300] [--at-once 2] [--least 60] [--loops 20]

Each candidate is a harness that nobody has seen before: stored as a tree,
started in its own sandbox, solved on one instance, scored by the verifier's process and
recorded in the ledger, through the code that a run uses. ``--at-once`` candidates are
evaluated side by side, by default one a core.

Then every fifth of ``5 * --loops`` candidates is an endless loop with a limit of 2 s, and
the throughput is compared with the arithmetic ideal. A good candidate holds its place for
``at_once / rate`` seconds, where ``rate`` is the first figure, and a loop for 2 s. All
places taken together, ``n`` candidates of which ``n / 5`` loop take at least
``(4/5 * n * at_once / rate + 1/5 * n * 2 s) / at_once`` seconds. With ``--least``, the exit code
is 1 where the first figure is smaller, or the second more than 20% below its ideal.

Processor time is that of this process and of all that it started, the verifier's start
included: where others use the machine too, it says more than the clock's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rollout import case, processor

from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import OfferRef
from sia_runtime.local import LocalBackend

LIMIT_SECONDS = 2.0
LOOPS_EVERY = 5
WARM_UP = 8
TOLERANCE = 0.2

GOOD = """
def solve(instance, ctx):
    return "x"  # candidate {number}
"""
LOOP = """
def solve(instance, ctx):
    while True:
        pass  # candidate {number}
"""


class Evaluations:
    """One run's worth of what evaluates candidates."""

    def __init__(self, folder: Path, sandbox: str, at_once: int, ledger: Ledger, backend: LocalBackend) -> None:
        data = str(folder / "cases.jsonl")
        settings = {"data": data, "harness": str(folder / "harness"), "seed": 0, "seconds": str(LIMIT_SECONDS)}
        task = OfferRef("cases", settings)
        setting = Setting(str(folder / "run"), task, OfferRef("exact", {"data": data}), sandbox, 0)
        loaded = Plugins.discover().create("task", task.name, **task.settings)
        self._instances = [each.id for each in loaded.instances("search")]
        self._trees, self._at_once = Trees(folder / "run"), at_once
        self._rollouts = Rollouts(setting, ledger, backend, Emitter())
        self._count = 0

    def timed(self, sources: Sequence[str]) -> float:
        """The seconds that candidates of these sources take, ``at_once`` at a time."""
        numbered = [(self._count + index, source) for index, source in enumerate(sources)]
        self._count += len(sources)
        started = time.perf_counter()
        with ThreadPoolExecutor(self._at_once) as threads:
            rollouts = list(threads.map(self._evaluate, *zip(*numbered, strict=True)))
        seconds = time.perf_counter() - started
        for rollout, source in zip(rollouts, sources, strict=True):
            expected = ("timeout", 0.0) if source is LOOP else ("ok", 1.0)
            if (rollout.outcome, rollout.reward) != expected:
                sys.exit(f"a candidate went wrong: {rollout}")
        return seconds

    def _evaluate(self, number: int, source: str) -> Rollout:
        harness = self._trees.put(HarnessTree({"harness.py": source.format(number=number).encode()}))
        instance = self._instances[number % len(self._instances)]
        (rollout,) = self._rollouts.run(Sweep("bench", f"candidate-{number}", harness, "search", (instance,)))
        return rollout


@contextmanager
def evaluations(options: argparse.Namespace) -> Iterator[Evaluations]:
    """A run that has evaluated a few candidates already; all that it started has ended after it."""
    with tempfile.TemporaryDirectory(prefix="sia-bench-") as name:
        folder = Path(name)
        (folder / "harness").mkdir()
        (folder / "harness" / "harness.py").write_text(GOOD)
        cases = [case(number, split) for split in ("public", "search", "gate", "sealed") for number in range(64)]
        (folder / "cases.jsonl").write_text("".join(json.dumps(each) + "\n" for each in cases))
        with Ledger.create(folder / "run") as ledger:
            backend = LocalBackend(Plugins.discover())
            try:
                bench = Evaluations(folder, options.sandbox, options.at_once, ledger, backend)
                bench.timed([GOOD] * WARM_UP)
                yield bench
            finally:
                backend.close()


def measure(options: argparse.Namespace) -> float:
    """Good candidates a second."""
    before = processor()
    with evaluations(options) as run:
        seconds = run.timed([GOOD] * options.candidates)
    del run
    gc.collect()  # a template ends with the last that knows of it, and only then its time counts
    cost = (processor() - before) / (options.candidates + WARM_UP)
    rate = options.candidates / seconds
    print(
        f"{rate:6.1f} evaluations/s, {options.at_once} at once; "
        f"{1000 / rate:.1f} ms each, {1000 * cost:.1f} ms of processor, start and end included",
        flush=True,
    )
    return rate


def measure_with_loops(options: argparse.Namespace, rate: float) -> float:
    """The share of the ideal throughput that is reached where one in five loops."""
    total = LOOPS_EVERY * options.loops
    with evaluations(options) as run:
        seconds = run.timed([GOOD if number % LOOPS_EVERY else LOOP for number in range(total)])
    good = (total - options.loops) * options.at_once / rate
    ideal = (good + options.loops * LIMIT_SECONDS) / options.at_once
    print(
        f"{total / seconds:6.2f} evaluations/s where one in {LOOPS_EVERY} loops for {LIMIT_SECONDS:g} s; "
        f"ideal {total / ideal:.2f}, reached {ideal / seconds:.0%}"
    )
    return ideal / seconds


def main() -> int:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--loops", type=int, default=20)
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--sandbox", default="namespaces")
    options = parser.parse_args()
    rate = measure(options)
    share = measure_with_loops(options, rate) if options.loops else 1.0
    return 0 if rate >= options.least and share >= 1 - TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
