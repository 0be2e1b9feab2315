"""Measures every plan that the seed harness can render, for comparisons of searches that then need no clock.

Each plan is called three times a shape in this process, on one thread, in random order and
with the baseline in between; its output is checked against the baseline's. What counts is
processor time, so that other work on the machine costs a plan little:

    python tasks/trimul/bench/plans.py plans.json

The rendered code is the seed harness's own, which is why no sandbox stands around it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sia_trimul
from sia_trimul.judging import Refused, check
from sia_trimul.shapes import CPU_TIMING, Shape, draw, geometric_mean

SOURCE = Path(sia_trimul.__file__).parent
sys.path[:0] = [str(SOURCE / "seed"), str(SOURCE / "programs")]

import plans  # noqa: E402
import reference  # noqa: E402
import renderer  # noqa: E402

REPEATS, BASELINE_EVERY = 3, 8


class Case:
    """One shape: its inputs, what should come of them, and the baseline's times so far."""

    def __init__(self, shape: Shape, seed: int) -> None:
        x, mask, weights, config = draw(shape, seed)
        weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        self.shape, self.given = shape, (torch.from_numpy(x), torch.from_numpy(mask), weights, config)
        self.expected = reference.kernel(*self.given).numpy()
        self.baseline: list[float] = []

    def time(self, kernel: Callable[..., Any]) -> tuple[float, Any]:
        started = time.process_time()
        y = kernel(*self.given)
        return time.process_time() - started, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    cases = [Case(shape, seed) for seed, shape in enumerate(CPU_TIMING)]
    every = [dict(zip(plans.FIELDS, values, strict=True)) for values in itertools.product(*plans.FIELDS.values())]
    random.Random(0).shuffle(every)  # so that a machine that grows busy does not favour one field's value
    measured = []
    for number, plan in enumerate(every):
        if number % BASELINE_EVERY == 0:
            for case in cases:
                case.baseline.append(case.time(reference.kernel)[0])
        measured.append((plan, seconds(plan, cases)))
        if number % 50 == 0:
            print(f"{number} of {len(every)}", file=sys.stderr, flush=True)
    baseline = [median(case.baseline) for case in cases]
    rows = [
        {
            "plan": plan,
            "speedup": geometric_mean([base / own for base, own in zip(baseline, took, strict=True)]) if took else 0.0,
        }
        for plan, took in measured
    ]
    rows.sort(key=lambda row: -row["speedup"])
    target.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    print(f"best: {rows[0]}")


def seconds(plan: dict[str, str], cases: list[Case]) -> list[float]:
    """The median of each case; nothing where an output is wrong."""
    scope: dict[str, Any] = {}
    exec(compile(renderer.render(plan), "kernel.py", "exec"), scope)
    medians = []
    for case in cases:
        taken = [case.time(scope["kernel"]) for _ in range(REPEATS)]
        try:
            check(taken[-1][1].numpy(), case.expected, case.shape)
        except Refused:
            return []
        medians.append(median(each for each, _ in taken))
    return medians


if __name__ == "__main__":
    main()
