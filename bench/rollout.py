"""How many rollouts a second this machine does with sandbox, gateway, verifier and ledger on, and a stub for an engine.

    python bench/rollout.py [--rollouts 4096] [--batch-ms 0] [--least 500]

Each road is one harness, whose ``solve`` asks the policy once: not at all (the
floor), over the framed channel, and over HTTP. Where others use the machine too, the
processor's time (set-up included) says more than the clock's. ``--batch-ms`` is how long the stub
takes for a batch, whatever is in it, as a large model does. With ``--least``, the exit
code is 1 where the framed road of a stateless harness does fewer a second.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sia_core.hookspecs import Offer
from sia_core.learning import Request, Sampled
from sia_core.plugins import Plugins, Source
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import OfferRef
from sia_runtime.local import LocalBackend
from sia_testing.engines import ScriptedEngine

ROADS = {
    "floor": """
def solve(instance, ctx):
    return instance.input["text"]
""",
    "framed": """
def solve(instance, ctx):
    reply = ctx.model([{"role": "user", "content": instance.input["text"]}], max_tokens=16)
    return reply["choices"][0]["message"]["content"]
""",
    "http": """
import json, os, urllib.request
def solve(instance, ctx):
    body = {"messages": [{"role": "user", "content": instance.input["text"]}], "max_tokens": 16}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
""",
}


class Stub(ScriptedEngine):
    """Takes ``milliseconds`` for a batch, and counts."""

    calls = batches_done = 0

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self._seconds = milliseconds / 1000

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        if self._seconds:
            threading.Event().wait(self._seconds)
        Stub.calls += len(requests)
        Stub.batches_done += 1
        result = super().sample(requests)
        self.batches.clear()
        return result


@dataclass(frozen=True)
class Figure:
    """One road: rollouts a second, calls a batch, and how many rollouts that was."""

    rate: float
    batch: float
    rollouts: int


def processor() -> float:
    """Seconds of this process and of those of its descendants that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(road: str, stateless: bool, rollouts: int, batch_ms: float) -> Figure:
    """Roll one agent out over ``rollouts`` instances, its set-up not counted."""
    with tempfile.TemporaryDirectory(prefix="sia-bench-") as name:
        folder = Path(name)
        harness = folder / "harness"
        harness.mkdir()
        (harness / "harness.py").write_text(ROADS[road])
        (harness / "harness.toml").write_text(f"stateless = {str(stateless).lower()}\n")
        cases = [case(number, "search") for number in range(rollouts + 64)]
        cases += [case(number, split) for split in ("public", "gate", "sealed") for number in range(64)]
        (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
        plugins = Plugins.discover()
        plugins.offers.append(("engine", Offer("stub", "", "__main__:Stub"), Source("bench", "bench", "0")))
        run = folder / "run"
        with Ledger.create(run) as ledger:
            backend = LocalBackend(plugins)
            try:
                return _roll_out(folder, ledger, backend, plugins, road, batch_ms)
            finally:
                backend.close()


def _roll_out(
    folder: Path,
    ledger: Ledger,
    backend: LocalBackend,
    plugins: Plugins,
    road: str,
    batch_ms: float,
) -> Figure:
    data = str(folder / "cases.jsonl")
    task = OfferRef("cases", {"data": data, "harness": str(folder / "harness"), "seed": 0})
    engine = None if road == "floor" else OfferRef("stub", {"milliseconds": batch_ms})
    setting = Setting(str(folder / "run"), task, OfferRef("exact", {"data": data}), "namespaces", 0, engine)
    loaded = plugins.create("task", task.name, **task.settings)
    harness = Trees(folder / "run").put(loaded.seed_harness())
    ids = tuple(each.id for each in loaded.instances("search"))
    rollouts = Rollouts(setting, ledger, backend, Emitter())
    rollouts.run(Sweep("warm-up", "agent", harness, "search", ids[:64]))
    Stub.calls = Stub.batches_done = 0
    started = time.perf_counter()
    results = rollouts.run(Sweep("bench", "agent", harness, "search", ids[64:]))
    seconds = time.perf_counter() - started
    bad = [each for each in results if each.outcome != "ok" or (engine is not None) != bool(each.tokens)]
    if bad:
        sys.exit(f"{road}: {len(bad)} rollouts went wrong, such as {bad[0]}")
    return Figure(len(results) / seconds, Stub.calls / max(1, Stub.batches_done), len(results))


def case(number: int, split: str) -> dict[str, str]:
    return {"input": f"{split} {number}: what comes next?", "answer": "x", "split": split}


def main() -> int:
    """Print a line a road."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=4096)
    parser.add_argument("--batch-ms", type=float, default=0.0)
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--road", choices=list(ROADS), action="append")
    options = parser.parse_args()
    enough = True
    for stateless in (True, False):
        for road in options.road or ROADS:
            before = processor()
            figure = measure(road, stateless, options.rollouts, options.batch_ms)
            kind = "one fork serves many" if stateless else "a fork each"
            calls = f", {figure.batch:.1f} calls a batch" if figure.batch else ""
            cost = 1000 * (processor() - before) / figure.rollouts
            speed = f"{figure.rate:7.0f} rollouts/s, {1000 / figure.rate:.2f} ms each, {cost:.2f} ms of processor"
            print(f"{road:7} {kind:21} {speed}{calls}", flush=True)
            enough &= not (stateless and road == "framed" and figure.rate < options.least)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
