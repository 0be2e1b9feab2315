"""The table of tasks/trimul/results: this repository's kernels beside the baseline, by turns, on this machine.

    python tasks/trimul/bench/measure.py [--write tasks/trimul/results/README.md]

On the CPU: one thread, processor time, so that other work on the machine costs little. The
baseline is the faster of the reference as it stands and torch.compile of it, which takes a
C++ compiler. On a CUDA device: events around each call, inputs rotated and the L2 cache
overwritten in between, and the clock of this process beside them. These kernels are this
repository's own; anyone else's goes through the verifier and its sandbox.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sia_trimul
from sia_trimul.judging import check
from sia_trimul.shapes import TIMING, H, Shape, device_of, draw, geometric_mean, least_seconds, staged_seconds

sys.path.insert(0, str(Path(sia_trimul.__file__).parent / "programs"))

import reference

RESULTS = Path(__file__).parents[1] / "results"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
CPU_SHAPES = (
    Shape(64, 1, 128, "normal", True),
    Shape(80, 1, 128, "cauchy"),
    Shape(96, 1, 128, "normal", True),
    Shape(128, 1, 128, "cauchy"),
    Shape(160, 1, 128, "normal", True),
)
REPEATS, CUDA_REPEATS, FLUSHED_BYTES = 7, 20, 256 * 2**20
CLOCKS_DIFFER = 0.25
"""By what part of a call the device's clock and this process's may differ."""

Kernel = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a file whose part between two marks is replaced by the table")
    target = parser.parse_args().write
    torch.set_grad_enabled(False)
    lines = [*cuda_table(), "", *cpu_table()]
    print("\n".join(lines))
    if target is not None:
        before, _, rest = target.read_text().partition(BEGIN)
        target.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}")


def kernel_of(name: str) -> Kernel:
    scope: dict[str, Any] = {}
    exec(compile((RESULTS / name).read_text(), name, "exec"), scope)
    kernel: Kernel = scope["kernel"]
    return kernel


def given_for(shape: Shape, seed: int, device: str) -> tuple[Any, ...]:
    x, mask, weights, config = draw(shape, seed)
    moved = {name: torch.from_numpy(weight).to(device) for name, weight in weights.items()}
    return torch.from_numpy(x).to(device), torch.from_numpy(mask).to(device), moved, config


# The CPU.


def cpu_table() -> list[str]:
    torch.set_num_threads(1)
    kernel, baselines = kernel_of("kernel_cpu.py"), [reference.kernel]
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        baselines.append(torch.compile(reference.kernel, dynamic=False))
    what = "eager and compiled" if compiler else "eager alone: there is no C++ compiler to compile it with"
    lines = [
        f"CPU: {processor()}, one thread, PyTorch {torch.__version__}, milliseconds of processor time "
        f"(medians of {REPEATS} by turns); the baseline is the faster of: {what}.",
        "",
        "| N/B/C | eager | compiled | kernel | times as fast | GFLOP/s | products alone |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    gains = []
    for shape in CPU_SHAPES:
        given = given_for(shape, 1, "cpu")
        expected = reference.kernel(*given).numpy()
        check(kernel(*given).numpy(), expected, shape)
        rounds = [[of_processor(each, given) for each in (kernel, *baselines)] for _ in range(REPEATS + 1)][1:]
        own, eager, *compiled = (median(column) for column in zip(*rounds, strict=True))
        gains.append(min(eager, *compiled) / own if compiled else eager / own)
        parts = [f"{eager * 1e3:.1f}", *(f"{each * 1e3:.1f}" for each in compiled or [])] + ["-"] * (not compiled)
        lines.append(
            f"| {shape} | {' | '.join(parts)} | {own * 1e3:.1f} | {gains[-1]:.2f} | {shape.flop / own / 1e9:.0f} "
            f"| {products(shape) * 1e3:.1f} |"
        )
    lines.append(f"| geometric mean | | | | **{geometric_mean(gains):.2f}** | | |")
    return lines


def of_processor(kernel: Kernel, given: Sequence[Any]) -> float:
    started = time.process_time()
    kernel(*given)
    return time.process_time() - started


def products(shape: Shape) -> float:
    """The matrix products of a shape alone, in bfloat16, on operands that lie ready."""
    m = shape.b * shape.n**2
    x, packed, o, out = (
        torch.randn(size).bfloat16() for size in ((m, shape.c), (5 * H, shape.c), (m, H), (shape.c, H))
    )
    left, right = (torch.randn(shape.b * H, shape.n, shape.n).bfloat16() for _ in range(2))

    def all_three() -> None:
        torch.mm(x, packed.t())
        torch.bmm(left, right.transpose(1, 2))
        torch.mm(o, out.t())

    return median(of_processor(all_three, ()) for _ in range(REPEATS))


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# A CUDA device.


def cuda_table() -> list[str]:
    if not torch.cuda.is_available():
        return ["CUDA: **not measured** (there was no CUDA device where this table was made)."]
    kernel, device = kernel_of("kernel_cuda.py"), device_of(torch.cuda.get_device_name())
    lines = [
        f"CUDA: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, microseconds "
        f"(medians of {CUDA_REPEATS} by turns).",
        "",
        "| N/B/C | eager | kernel | times as fast | TFLOP/s | GB/s of x and y | staged floor | least |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    every = []
    for shape in TIMING:
        own, eager = cuda_times(shape, kernel)
        floors = [staged_seconds(shape, device), least_seconds(shape, device)] if device else []
        if floors and own < floors[1]:
            raise SystemExit(f"{shape}: {own * 1e6:.0f} us is less than anything can take on this device")
        every.append((own, *floors))
        floor = [f"{each * 1e6:.0f}" for each in floors] or ["-", "-"]
        lines.append(
            f"| {shape} | {eager * 1e6:.0f} | {own * 1e6:.0f} | {eager / own:.2f} | {shape.flop / own / 1e12:.0f} "
            f"| {shape.io_bytes / own / 1e9:.0f} | {' | '.join(floor)} |"
        )
    means = [geometric_mean(column) * 1e6 for column in zip(*every, strict=True)]
    floor = [f"{each:.0f}" for each in means[1:]] or ["-", "-"]
    lines.append(f"| geometric mean | | **{means[0]:.0f}** | | | | {' | '.join(floor)} |")
    lines += ["", f"Reward: 1500 / {means[0]:.0f} = {1500 / means[0]:.3f}."]
    return lines


def cuda_times(shape: Shape, kernel: Kernel) -> tuple[float, float]:
    """Medians of the kernel and of the reference; each output is checked."""
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    own, eager = [], []
    for repeat in range(CUDA_REPEATS + 3):
        given = given_for(shape, repeat, "cuda")
        flushed.zero_()
        seconds, expected = on_device(reference.kernel, given)
        flushed.zero_()
        taken, y = on_device(kernel, given)
        check(y.cpu().numpy(), expected.cpu().numpy(), shape)
        if repeat >= 3:
            own.append(taken)
            eager.append(seconds)
    return median(own), median(eager)


def on_device(kernel: Kernel, given: Sequence[Any]) -> tuple[float, Any]:
    """Seconds by the device's events, which this process's clock has to agree with."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    started = time.perf_counter()
    before.record()
    y = kernel(*given)
    after.record()
    torch.cuda.synchronize()
    clock, device = time.perf_counter() - started, before.elapsed_time(after) / 1e3
    if device < clock * (1 - CLOCKS_DIFFER) - 1e-4:
        raise SystemExit(f"the device's clock says {device * 1e6:.0f} us, and this process's {clock * 1e6:.0f}")
    return device, y


if __name__ == "__main__":
    main()
