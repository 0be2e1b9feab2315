"""Runs a kernel on a CUDA device beside the baseline, checks each output there, and takes the times by turns.

The inputs of some calls are drawn into device memory, which the kernel's process is handed with the order to call:
it has not seen them before. The clock is this process's. It runs until some elements of every output, which nobody
knows beforehand, have been read here. What they were then has to be right, so that nothing is done later, and then
each whole output is checked against the reference, computed here on inputs drawn again.
"""

from __future__ import annotations

import importlib.util
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from sia_core.errors import SiaError
from sia_core.types import Called, Instance, Limits, OpenedProgram, Score, VerifierContext
from sia_trimul import toolchain
from sia_trimul.device_memory import Shared
from sia_trimul.drawing import drawn_on
from sia_trimul.judging import HOPELESS, IMPOSSIBLE, SEARCH_TOLERANCE, Refused, Times, summary, within, wrong
from sia_trimul.shapes import CORRECTNESS, TIMING, TOLERANCE, Device, Shape, device_of, draw, least_seconds
from sia_trimul.verifier import understood

LIMITS = Limits(
    total_memory_bytes=16 * 2**30,
    processes=128,
    # Also of each file in memory, which the driver's library has to be allowed, and which no process's memory counts.
    file_bytes=64 * 2**20,
    scratch_bytes=2 * 2**30,
    setup_seconds=60.0,
)
PROGRAMS = Path(__file__).parent / "programs"
POINTS = 4096
"""Elements of each output that are read at the end of the clock."""

CLOCKS_DIFFER, CLOCKS_SLACK = 0.25, 1e-3
"""By what part of the time, and by how many seconds, the kernel's clock and this process's may differ."""

_KERNEL_SECONDS = 90.0
"""Of all calls of one kernel together, compiling included."""

_BASELINE_SECONDS, _FIRST_SECONDS, _DROP_SECONDS = 60.0, 30.0, 10.0
_ALIGNMENT = 256
_MOST_CALLS, _MOST_FLOP, _MOST_BYTES = 32, 8e12, 16e9
_RATE_TRIES, _IDLE_TRIES = 5, 3
_PART = 2**26
"""Elements that are compared at once: what that takes besides is a few times as much."""


class DeviceJudge:
    """Verifier ``trimul-cuda``: the reward is 1500 divided by the geometric mean of the microseconds of a call.

    On the search split, and while a harness searches, a kernel is checked on the small shapes and timed twice on each
    that is timed publicly; as an answer on gate or sealed it is checked on all of them and timed three times.
    """

    seconds_per_answer = 300.0
    device = "cuda"
    patience: float = 5.0
    checked: Sequence[Shape] = CORRECTNESS
    checked_at_first: Sequence[Shape] = tuple(shape for shape in CORRECTNESS if shape.n <= 64)
    timed: Sequence[Shape] = TIMING
    measured_on = 8192, 2**30
    """The size of the product and the bytes of the copy that tell what the device can do."""

    def __init__(self) -> None:
        self._twin: OpenedProgram | None = None
        self._reference = module_of(PROGRAMS / "reference.py")
        self._rate = self._bandwidth = 0.0
        self._idle: Mapping[Shape, float] = {}
        self._latest = self.timed[0], 1

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Correct or not, and how long a call takes."""
        with torch.no_grad():
            twin = self._baseline(ctx)
            thorough = ctx.final and instance.split != "search"
            tolerance = TOLERANCE if instance.split == "sealed" else SEARCH_TOLERANCE
            try:
                times = self._times(answer["code"].encode(), ctx, twin, tolerance, thorough=thorough)
            except Refused as refusal:
                return Score(0.0, valid=False, feedback=str(refusal))
            except (MemoryError, RuntimeError, OSError) as error:
                full = str(error) or type(error).__name__  # and no more of it: its frames keep what fills the device
            else:
                full = ""
            if full:
                self._check_room(full, ctx)
                return Score(0.0, valid=False, feedback=f"beside it nothing else has room on the device: {full}")
        _, metrics, feedback = summary(times, self._rate, self._known())
        return Score(1500 / metrics["microseconds"], metrics=metrics, feedback=feedback)

    def requires(self) -> tuple[str, ...]:
        """The distributions that a kernel's process may import."""
        return toolchain.requires()

    def beside(self) -> Mapping[str, bytes]:
        """Files beside the module of a kernel's process."""
        return toolchain.files()

    def close(self) -> None:
        """End the baseline's process."""
        if self._twin is not None:
            self._twin.close()
            self._twin = None

    def _times(
        self, code: bytes, ctx: VerifierContext, twin: OpenedProgram, tolerance: float, *, thorough: bool
    ) -> list[Times]:
        with self._open(code, ctx) as program:
            kernel = Limited(program, _KERNEL_SECONDS)
            understood(kernel.call("start", [self.device], _FIRST_SECONDS), None)
            for shape in self.checked if thorough else self.checked_at_first:
                with self._round(shape, 1, kernel) as trial:
                    called, _ = trial.call(kernel, "calls", _FIRST_SECONDS)
                    understood(called, shape)
                    trial.check(self._reference.kernel, tolerance)
            repeats = 3 if thorough else 2
            return [self._time(kernel, twin, shape, repeats, tolerance) for shape in self.timed]

    def _time(self, kernel: Limited, twin: OpenedProgram, shape: Shape, repeats: int, tolerance: float) -> Times:
        with self._round(shape, 1, kernel, twin) as trial:
            # Whatever is done at the first sight of a shape is not timed, nor is its output of any use.
            understood(trial.call(kernel, "calls", _FIRST_SECONDS)[0], shape)
            one = trial.of_baseline(twin, "calls")
        count = calls_of(shape)
        ours: list[float] = []
        theirs: list[float] = []
        claims: list[object] = []
        for _ in range(repeats):
            with self._round(shape, count, kernel, twin) as trial:
                called, seconds = trial.call(kernel, "calls", 2 + self.patience * count * one)
                claims.append(understood(called, shape))
                ours.append(seconds)
                trial.check(self._reference.kernel, tolerance)
                theirs.append(trial.of_baseline(twin, "calls"))
            if ours[-1] > HOPELESS * theirs[-1]:
                break
        # What it takes to hand memory over and to read it is the same for a process that calls no kernel.
        mine, other = ([(each - self._idle[shape]) / count for each in column] for column in (ours, theirs))
        least = self._least(shape)
        times = Times(shape, mine, [max(least, each) for each in other])
        times.check_possible(least)
        for seconds, claimed in zip(times.kernel, claims, strict=True):
            check_clocks(shape, seconds * count, claimed)
        return times

    def _least(self, shape: Shape) -> float:
        """Seconds that no call can be faster than."""
        measured = IMPOSSIBLE * max(shape.flop / self._rate, shape.io_bytes / self._bandwidth)
        device = self._known()
        return max(measured, least_seconds(shape, device)) if device else measured

    def _known(self) -> Device | None:
        return device_of(torch.cuda.get_device_name()) if self.device == "cuda" else None

    @contextmanager
    def _round(self, shape: Shape, count: int, *programs: OpenedProgram | Limited) -> Iterator[Round]:
        self._latest = shape, count
        trial = Round(shape, count, self.device)
        try:
            yield trial
        finally:
            for program in programs:
                program.call("drop", [], _DROP_SECONDS)
            trial.close()

    def _open(self, code: bytes, ctx: VerifierContext) -> OpenedProgram:
        files = {
            **self.beside(),
            "candidate.py": code,
            "device_memory.py": Path(__file__).with_name("device_memory.py").read_bytes(),
            "entry.py": (PROGRAMS / "entry_device.py").read_bytes(),
        }
        return ctx.open(files, "entry", requires=self.requires(), limits=LIMITS, cuda=self.device == "cuda")

    def _baseline(self, ctx: VerifierContext) -> OpenedProgram:
        """The baseline's process, kept from answer to answer: nothing of a candidate's ever runs in it."""
        if self._twin is None:
            self._twin = self._open((PROGRAMS / "reference.py").read_bytes(), ctx)
            started = self._twin.call("start", [self.device], _BASELINE_SECONDS)
            if started.ended != "ok":
                self.close()
                raise SiaError(f"trimul: the device {self.device!r} does not start in a sandbox: {started.message}")
            self._rate, self._bandwidth = rates(self.device, *self.measured_on)
            # Before there is a kernel: its work on the device might go on while its process stands still.
            self._idle = {shape: self._without_kernel(self._twin, shape) for shape in self.timed}
        return self._twin

    def _without_kernel(self, twin: OpenedProgram, shape: Shape) -> float:
        seconds = []
        for _ in range(_IDLE_TRIES):
            with self._round(shape, calls_of(shape), twin) as trial:
                seconds.append(trial.of_baseline(twin, "nothing"))
        return min(seconds)

    def _check_room(self, why: str, ctx: VerifierContext) -> None:
        """SiaError where the device has no room without the kernel's process, which has ended, either."""
        shape, count = self._latest
        try:
            self.close()  # it may have been in want as well
            twin = self._baseline(ctx)
            with self._round(shape, count, twin) as trial:
                trial.of_baseline(twin, "calls")
                trial.rehearse(self._reference.kernel)
        except (MemoryError, RuntimeError, OSError):
            raise SiaError(f"trimul: the device has no room to judge kernels at {shape}: {why}") from None


class Limited:
    """A kernel's process, with a limit in seconds for all its calls together."""

    def __init__(self, program: OpenedProgram, seconds: float) -> None:
        self._program, self._all, self._remaining = program, seconds, seconds

    def call(
        self,
        function: str,
        arguments: Sequence[Any] = (),
        seconds: float | None = None,
        handles: Sequence[int] = (),
        at_reply: Callable[[], None] | None = None,
    ) -> Called:
        """As :meth:`sia_core.types.OpenedProgram.call`."""
        if self._remaining <= 0:
            return Called("timeout", message=f"its calls took more than {self._all:g} seconds in all")
        most = self._remaining if seconds is None else min(seconds, self._remaining)
        called = self._program.call(function, arguments, most, handles, at_reply)
        self._remaining -= called.seconds
        return called


class Round:
    """Inputs of ``count`` calls, and room for their outputs, in memory that processes can be handed."""

    def __init__(self, shape: Shape, count: int, device: str) -> None:
        """Draw them. What stands where an output is to be is no number."""
        self._shape, self._device = shape, device
        self._seeds = [secrets.randbits(63) for _ in range(count)]
        forms, self._config, each = _forms(shape)
        if device == "cuda":
            torch.cuda.empty_cache()  # what this process keeps for itself is needed for what it hands over
        self._memory = Shared(count * each, device)
        self._samples: Any = None
        self._places = [
            {name: (number * each + start, size) for name, (start, size) in forms.items()} for number in range(count)
        ]
        try:
            self._draw()
        except BaseException:
            self.close()
            raise

    def _draw(self) -> None:
        for places, seed in zip(self._places, self._seeds, strict=True):
            x, mask, weights, _ = drawn_on(self._device, self._shape, seed)
            for name, tensor in {"x": x, "mask": mask, **weights}.items():
                self._memory.floats(*places[name]).copy_(tensor)
        elements = self._shape.b * self._shape.n**2 * self._shape.c
        self._points = [torch.randint(elements, (POINTS,), device=self._device) for _ in self._places]

    def of_baseline(self, twin: OpenedProgram, function: str) -> float:
        """Seconds of the baseline's process. MemoryError where it fails: a kernel may have left it no room."""
        called, seconds = self.call(twin, function, _BASELINE_SECONDS)
        if called.ended != "ok":
            raise MemoryError(f"the baseline failed: {called.ended} {called.message}")
        return seconds

    def call(self, program: OpenedProgram | Limited, function: str, seconds: float) -> tuple[Called, float]:
        """The call's result, and the seconds until the points of all outputs had been read."""
        for places in self._places:
            self._memory.floats(*places["y"]).fill_(torch.nan)
        self._read()  # waits for all that was to be done here before
        delay = 0.0

        def look() -> None:
            nonlocal delay
            started = time.perf_counter()
            self._samples = self._read()
            delay = time.perf_counter() - started

        order = {
            "device": self._device,
            "size": self._memory.size,
            "config": self._config,
            "calls": [{name: [start, list(size)] for name, (start, size) in places.items()} for places in self._places],
        }
        called = program.call(function, [order], seconds, [self._memory.descriptor], look)
        return called, called.seconds + delay

    def check(self, reference: Callable[..., Any], tolerance: float) -> None:
        """Refused unless each output is right, and was when the clock stopped."""
        for places, seed, points, sample in zip(self._places, self._seeds, self._points, self._samples, strict=True):
            # Drawn again: what lies in the memory is whatever the kernel's process left there.
            expected = reference(*drawn_on(self._device, self._shape, seed))
            check(self._memory.floats(*places["y"]), expected, self._shape, tolerance)
            # A device goes on with what is queued while the process stands still, and may be done only now.
            if not bool(within(sample, expected.reshape(-1)[points].cpu(), tolerance).all()):
                raise Refused(f"at {self._shape}: an output was not there yet when the call had returned")

    def rehearse(self, reference: Callable[..., Any]) -> None:
        """Do what checking right outputs takes."""
        for places, seed in zip(self._places, self._seeds, strict=True):
            self._memory.floats(*places["y"]).copy_(reference(*drawn_on(self._device, self._shape, seed)))
        self._samples = self._read()
        self.check(reference, TOLERANCE)

    def close(self) -> None:
        """Give its memory back."""
        self._memory.close()

    def _read(self) -> Any:
        outputs = [self._memory.floats(*places["y"]).view(-1) for places in self._places]
        samples = [output[points] for output, points in zip(outputs, self._points, strict=True)]
        return torch.stack(samples).cpu()


def check(y: Any, reference: Any, shape: Shape, tolerance: float) -> None:
    """As :func:`sia_trimul.judging.check`, for float32 tensors of one size on a device: a part after the other."""
    beyond, worst, furthest = 0, 0, -1.0
    parts = zip(y.view(-1).split(_PART), reference.reshape(-1).split(_PART), strict=True)
    for number, (ours, theirs) in enumerate(parts):
        far = ~within(ours, theirs, tolerance)
        if count := int(far.sum()):
            beyond += count
            excess = torch.where(ours.isfinite(), (ours - theirs).abs() / (1 + theirs.abs()), torch.inf)
            place = int(excess.argmax())
            if float(excess[place]) > furthest:
                furthest, worst = float(excess[place]), number * _PART + place
    if beyond:
        where = tuple(int(index) for index in np.unravel_index(worst, y.shape))
        raise wrong(shape, where, float(y[where]), float(reference[where]), beyond / y.numel(), tolerance)


def check_clocks(shape: Shape, seconds: float, claimed: object) -> None:
    """Refused where the kernel's own clock, as its process tells it, says another time than this process's."""
    if not isinstance(claimed, float):
        raise Refused(f"at {shape}: its own clock says no time at all")
    if not (abs(claimed - seconds) <= CLOCKS_DIFFER * seconds + CLOCKS_SLACK):
        raise Refused(f"at {shape}: its own clock says {claimed:.6g} seconds, and the judge's {seconds:.6f}")


def calls_of(shape: Shape) -> int:
    """How many calls are timed together: enough to time, within what a device holds and what checking them takes."""
    return max(1, min(_MOST_CALLS, int(_MOST_FLOP / shape.flop), int(_MOST_BYTES / shape.io_bytes)))


def rates(device: str, size: int, amount: int) -> tuple[float, float]:
    """FLOP/s of a product of ``size``, and bytes a second of a copy of ``amount``, read and written, both at best."""
    factors = [torch.randn(size, size, device=device).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    source = torch.ones(amount, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def least(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(_RATE_TRIES):
            started = time.perf_counter()
            work()[-1, ...].cpu()  # which waits for the device
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    product = min(least(partial(torch.mm, factor, factor)) for factor in factors)
    return 2.0 * size**3 / product, 2.0 * amount / least(partial(target.copy_, source))


def _forms(shape: Shape) -> tuple[Mapping[str, tuple[int, Sequence[int]]], Mapping[str, Any], int]:
    """Where each tensor of one call lies, as start and size, the config, and how many bytes a call has."""
    _, _, weights, config = draw(replace(shape, n=1, b=1), 0)
    whole = (shape.b, shape.n, shape.n, shape.c)
    sizes = {"x": whole, "mask": whole[:3], "y": whole} | {name: weight.shape for name, weight in weights.items()}
    forms, end = {}, 0
    for name, size in sizes.items():
        forms[name] = (end, size)
        end += -(-4 * math.prod(size) // _ALIGNMENT) * _ALIGNMENT
    return forms, config, end


def module_of(path: Path) -> ModuleType:
    """A file of kernels as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
