"""Rewards of the seed harness's plans, measured in this process: each plan once, and kept.

A plan is called three times a shape on one thread, or once where it takes twice the
baseline's time, and its outputs are checked. What counts is processor time, so that
other work on the machine costs a plan little, and the whole tolerance is granted. The
code is the seed harness's own, which is why no sandbox stands around it.

A plan near the tolerance is right on these inputs by luck, or wrong. :meth:`Rewards.on` says
what one earns on others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sia_trimul
from sia_trimul.judging import HOPELESS, Refused, check
from sia_trimul.shapes import CPU_CORRECTNESS, CPU_TIMING, Shape, draw, geometric_mean

SOURCE = Path(sia_trimul.__file__).parent
sys.path[:0] = [str(SOURCE / "seed"), str(SOURCE / "programs")]

import plans  # noqa: E402
import reference  # noqa: E402
import renderer  # noqa: E402

REPEATS = 3
BASELINE_FIRST, BASELINE_EVERY = 9, 8


class Case:
    """One shape: its inputs, what should come of them, and the baseline's times so far, which no input changes."""

    def __init__(self, shape: Shape, seed: int, baseline: list[float]) -> None:
        x, mask, weights, config = draw(shape, seed)
        weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        self.shape, self.given = shape, (torch.from_numpy(x), torch.from_numpy(mask), weights, config)
        self.expected = reference.kernel(*self.given).numpy()
        self.baseline = baseline

    def time(self, kernel: Callable[..., Any]) -> tuple[float, Any]:
        started = time.process_time()
        y = kernel(*self.given)
        return time.process_time() - started, y


class Rewards:
    """Speed-ups by plan, wrong ones at 0; those of ``path`` are known before, and it is written by :meth:`keep`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self._measured = 0
        self._checked = [Case(shape, seed, []) for seed, shape in enumerate(CPU_CORRECTNESS)]
        self._timed = [Case(shape, seed, []) for seed, shape in enumerate(CPU_TIMING)]
        for _ in range(BASELINE_FIRST):
            self._time_baseline()

    def __call__(self, plan: dict[str, str]) -> float:
        key = " ".join(plan[name] for name in plans.FIELDS)
        if key not in self._of:
            self._of[key] = round(self._measure(plan), 4)
        return self._of[key]

    def keep(self) -> None:
        """Best first."""
        rows = sorted(self._of.items(), key=lambda row: -row[1])
        self._path.write_text("{\n" + ",\n".join(f"{json.dumps(key)}: {value}" for key, value in rows) + "\n}\n")

    @torch.no_grad()
    def on(self, plan: dict[str, str], seed: int) -> float:
        """The reward on other inputs."""
        checked = [Case(shape, seed, []) for shape in CPU_CORRECTNESS]
        return _earned(plan, checked, [Case(each.shape, seed, each.baseline) for each in self._timed])

    @torch.no_grad()
    def _measure(self, plan: dict[str, str]) -> float:
        self._measured += 1
        if self._measured % BASELINE_EVERY == 0:
            self._time_baseline()
        return _earned(plan, self._checked, self._timed)

    @torch.no_grad()
    def _time_baseline(self) -> None:
        for case in self._timed:
            case.baseline.append(case.time(reference.kernel)[0])


def _earned(plan: dict[str, str], checked: Sequence[Case], timed: Sequence[Case]) -> float:
    """The speed-up over the timed cases; 0 for what is wrong on any."""
    scope: dict[str, Any] = {}
    exec(compile(renderer.render(plan), "kernel.py", "exec"), scope)
    try:
        for case in checked:
            check(scope["kernel"](*case.given).numpy(), case.expected, case.shape)
        return geometric_mean([_speedup(case, scope["kernel"]) for case in timed])
    except Refused:
        return 0.0


def _speedup(case: Case, kernel: Callable[..., Any]) -> float:
    baseline, taken = median(case.baseline), []
    for _ in range(REPEATS):
        seconds, y = case.time(kernel)
        check(y.numpy(), case.expected, case.shape)
        taken.append(seconds)
        if seconds > HOPELESS * baseline:
            break
    return baseline / median(taken)
