"""How long a worker takes to start: from its first call until its harness is set up.

    python bench/start.py [--sandbox namespaces] [--starts 15] [--requires numpy --requires torch]

The time is that of a worker's first answer less that of its second. Each harness
imports what it requires. The first start in a process makes the template and is told
apart from the median of the others, which are forks of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sia_core.harness import Manifest
from sia_core.plugins import Plugins
from sia_core.types import Limits
from sia_runtime.sandbox.contract import Sandbox
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest

HARNESS = "{imports}\ndef solve(instance, ctx):\n    return 1\n"


def measure(sandbox: Sandbox, folder: Path, requires: tuple[str, ...], starts: int) -> list[float]:
    """Seconds a start."""
    tree, public = folder / "tree", folder / "public"
    for each in (folder, tree, public):
        each.mkdir(exist_ok=True)
        each.chmod(0o755)
    (tree / "harness.py").write_text(HARNESS.format(imports="\n".join(f"import {name}" for name in requires)))
    seconds = []
    for _ in range(starts):
        worker = HarnessWorker(sandbox, tree, Manifest(requires=requires), public, Limits())
        started = time.perf_counter()
        _solve(worker)
        answered = time.perf_counter()
        _solve(worker)
        seconds.append((answered - started) - (time.perf_counter() - answered))
        worker.close()
    return seconds


def _solve(worker: HarnessWorker) -> None:
    (result,) = worker.solve([SolveRequest("0", {"id": "0", "input": {}, "start": None}, 0)])
    if result.outcome != "ok":
        sys.exit(f"{result}")


def main() -> int:
    """Print a line for each set of requirements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default="namespaces")
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--requires", action="append")
    options = parser.parse_args()
    sandbox = Plugins.discover().create("sandbox", options.sandbox)
    for requires in ((), *((name,) for name in options.requires or ("numpy", "torch"))):
        with tempfile.TemporaryDirectory(prefix="sia-bench-") as name:
            first, *others = measure(sandbox, Path(name), requires, options.starts)
        named = ", ".join(requires) or "nothing"
        median, least = statistics.median(others), min(others)
        print(
            f"{options.sandbox}, requires {named}: median {1000 * median:.1f} ms, "
            f"least {1000 * least:.1f} ms; the first {1000 * first:.0f} ms",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
