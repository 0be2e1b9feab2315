"""Runs a kernel beside the baseline, each in its own sandbox, checks each output and takes the times by turns.

Each call has inputs that nobody has seen, drawn after the kernel has loaded. The clock
is this process's; it runs until the output has been copied here, and between its calls
a kernel's process stands still. The baseline's output on the same inputs is what an
output is checked against.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_core.errors import SiaError
from sia_core.types import Called, Instance, Limits, OpenedProgram, Score, VerifierContext
from sia_trimul.judging import HOPELESS, IMPOSSIBLE, SEARCH_TOLERANCE, Refused, Times, check, summary
from sia_trimul.shapes import CPU_CORRECTNESS, CPU_TIMING, TOLERANCE, H, Shape, draw

THREADS = 1
"""Of the kernel and of the baseline. Two that wait for one another measure what else the machine does."""

LIMITS = Limits(
    memory_bytes=16 * 2**30,
    total_memory_bytes=4 * 2**30,
    processes=THREADS,  # the kernel of the system counts threads, too, and starts no other one
    file_bytes=256 * 2**20,
    setup_seconds=60.0,
)
REQUIRES = ("torch",)
PROGRAMS = Path(__file__).parent / "programs"

_BASELINE_SECONDS, _FIRST_SECONDS = 60.0, 5.0
_PATIENCE = 5.0
"""A kernel that takes this many times as long as the baseline is stopped; two seconds are allowed anyway."""

_RATE_TRIES = 5
_RATE_SHAPE = Shape(96, 1, 128)


def files_of(code: bytes) -> dict[str, bytes]:
    """The files to call a kernel: its own module, and the one that calls it."""
    return {"candidate.py": code, "entry.py": (PROGRAMS / "entry.py").read_bytes()}


class KernelJudge:
    """Verifier ``trimul`` for the CPU edition: the reward is the speed-up over the baseline.

    On the search split, and while a harness searches, a kernel is checked on one small
    shape and timed twice on each larger one; as an answer on gate or sealed it is checked on
    all small ones and timed three times. The whole tolerance is granted on sealed alone.
    """

    def __init__(self) -> None:
        self._twin: OpenedProgram | None = None
        self._rate = 0.0
        self._first: dict[Shape, Any] = {}

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Correct or not, and how much faster than the baseline."""
        twin = self._baseline(ctx)
        thorough = ctx.final and instance.split != "search"
        checked, repeats = (CPU_CORRECTNESS, 3) if thorough else (CPU_CORRECTNESS[:1], 2)
        tolerance = TOLERANCE if instance.split == "sealed" else SEARCH_TOLERANCE
        try:
            with ctx.open(files_of(answer["code"].encode()), "entry", requires=REQUIRES, limits=LIMITS) as kernel:
                understood(kernel.call("start", [THREADS]), None)
                for shape in checked:
                    _compare(kernel, twin, shape, tolerance)
                times = [self._time(kernel, twin, shape, repeats, tolerance) for shape in CPU_TIMING]
        except Refused as refusal:
            return Score(0.0, valid=False, feedback=str(refusal))
        reward, metrics, feedback = summary(times, self._rate)
        return Score(reward, metrics=metrics, feedback=feedback)

    def close(self) -> None:
        """End the baseline's process."""
        if self._twin is not None:
            self._twin.close()
            self._twin = None

    def _time(self, kernel: OpenedProgram, twin: OpenedProgram, shape: Shape, repeats: int, tolerance: float) -> Times:
        # Whatever is done at the first sight of a shape is not timed, nor is its output of any use.
        understood(kernel.call("kernel", self._first[shape], _FIRST_SECONDS), shape)
        times = Times(shape)
        for _ in range(repeats):
            ours, theirs = _compare(kernel, twin, shape, tolerance)
            times.kernel.append(ours)
            times.baseline.append(theirs)
            if ours > HOPELESS * theirs:
                break
        times.check_possible(IMPOSSIBLE * shape.flop / self._rate)
        return times

    def _baseline(self, ctx: VerifierContext) -> OpenedProgram:
        """The baseline's process, kept from answer to answer: nothing of a candidate's ever runs in it."""
        if self._twin is not None:
            return self._twin
        reference = (PROGRAMS / "reference.py").read_bytes()
        self._twin = ctx.open(files_of(reference), "entry", requires=REQUIRES, limits=LIMITS)
        _trusted(self._twin.call("start", [THREADS], _BASELINE_SECONDS))
        self._first = {shape: draw(shape, secrets.randbits(64)) for shape in CPU_TIMING}
        for inputs in self._first.values():
            _trusted(self._twin.call("kernel", inputs, _BASELINE_SECONDS))
        shape = _RATE_SHAPE
        self._rate = max(shape.flop / product_seconds(self._twin, shape) for _ in range(_RATE_TRIES))
        return self._twin


def product_seconds(twin: OpenedProgram, shape: Shape) -> float:
    """Seconds of a shape's matrix products by themselves, in trusted code."""
    return float(_trusted(twin.call("products", [shape.b, shape.n, shape.c, H], _BASELINE_SECONDS)))


def _compare(kernel: OpenedProgram, twin: OpenedProgram, shape: Shape, tolerance: float) -> tuple[float, float]:
    """Seconds of the kernel and of the baseline on new inputs. Refused where the kernel fails or is wrong."""
    inputs = draw(shape, secrets.randbits(64))
    theirs = twin.call("kernel", inputs, _BASELINE_SECONDS)
    reference = _trusted(theirs)
    ours = kernel.call("kernel", inputs, 2 + _PATIENCE * theirs.seconds)
    check(understood(ours, shape), reference, shape, tolerance)
    if theirs.processor_seconds:  # the trusted process says by which measure both are compared
        return ours.processor_seconds, theirs.processor_seconds
    return ours.seconds, theirs.seconds


def understood(called: Called, shape: Shape | None) -> Any:
    """A kernel process's return value. Refused, in a few words, where it failed."""
    if called.ended == "ok":
        return called.value
    where = "" if shape is None else f" at {shape}"
    what = {"error": "", "timeout": "too slow: ", "protocol": "its process broke the rules: "}
    raise Refused(f"{what.get(called.ended, f'{called.ended}: ')}{_shown(called.message)}{where}")


def _shown(message: str, most: int = 600) -> str:
    """The first line, which names the error, and the last ones, of the candidate's own file."""
    lines: Sequence[str] = [line for line in message.splitlines() if "entry.py" not in line]
    return "\n".join([*lines[:1], *lines[1:][-4:]])[:most]


def _trusted(called: Called) -> Any:
    if called.ended != "ok":
        raise SiaError(f"the baseline failed: {called.ended} {called.message}")
    return called.value
