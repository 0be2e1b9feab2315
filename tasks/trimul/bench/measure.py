"""The table of tasks/trimul/results: this repository's kernels beside the baseline, by turns, on this machine.

    python tasks/trimul/bench/measure.py [--write tasks/trimul/results/README.md] [--against published.py]

On the CPU: one thread, processor time, so that other work on the machine costs little. The
baseline is the faster of the reference as it stands and torch.compile of it, which takes a
C++ compiler. On a CUDA device: events around each call, inputs rotated and the L2 cache
overwritten in between, and the clock of this process beside them; inputs are drawn and outputs
checked there, which takes minutes less. No sandbox is around them: these kernels are this
repository's own, and one of ``--against`` is one that you have read.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sia_trimul
from sia_trimul.device import module_of
from sia_trimul.drawing import drawn_on, tensors
from sia_trimul.judging import check, within
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
Clock = Callable[[Kernel, Sequence[Any]], tuple[float, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a file whose part between two marks is replaced by the table")
    parser.add_argument(
        "--against", type=Path, action="append", default=[], metavar="FILE",
        help="a module with another `kernel`, or a `custom_kernel` as the public benchmark has it, timed by the same "
        "turns on a CUDA device; it runs in this process, so read it first",
    )  # fmt: skip
    options = parser.parse_args()
    target = options.write
    torch.set_grad_enabled(False)
    lines = [*cuda_table(options.against), "", *cpu_table()]
    print("\n".join(lines))
    if target is not None:
        before, _, rest = target.read_text().partition(BEGIN)
        target.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}")


def kernel_of(path: Path) -> Kernel:
    """The module's ``kernel``, or its ``custom_kernel`` as the public benchmark calls it."""
    module = module_of(path)
    kernel: Kernel | None = getattr(module, "kernel", None)
    return kernel or (lambda *given: module.custom_kernel(given))


def cuda_kernel(folder: Path) -> Path:
    """A file with the kernel for a CUDA device, rendered from its plan as the seed harness would."""
    renderer = module_of(Path(sia_trimul.__file__).parent / "seed_cuda" / "renderer.py")
    path = folder / "kernel_cuda.py"
    path.write_text(renderer.render(json.loads((RESULTS / "plan_cuda.json").read_text())))
    return path


def given_for(shape: Shape, seed: int) -> tuple[Any, ...]:
    x, mask, weights, config = draw(shape, seed)
    return torch.from_numpy(x), torch.from_numpy(mask), tensors(weights, "cpu"), config


# The CPU.


def cpu_table() -> list[str]:
    torch.set_num_threads(1)
    kernel, baselines = kernel_of(RESULTS / "kernel_cpu.py"), [reference.kernel]
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
        given = given_for(shape, 1)
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


def cuda_table(against: Sequence[Path]) -> list[str]:
    if not torch.cuda.is_available():
        return ["CUDA: **not measured** (there was no CUDA device where this table was made)."]
    device = device_of(torch.cuda.get_device_name())
    own = "kernel_cuda"
    with tempfile.TemporaryDirectory() as folder:
        kernels = {own: kernel_of(cuda_kernel(Path(folder))), "eager": reference.kernel}
    kernels |= {str(path): kernel_of(path) for path in against}
    lines = [
        f"CUDA: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}, microseconds "
        f"(medians of {CUDA_REPEATS} by turns).",
        "",
        f"| N/B/C | {' | '.join(kernels)} | TFLOP/s | GB/s of x and y | staged floor | least |",
        f"| {' | '.join(['---'] * (len(kernels) + 5))} |",
    ]
    every = []
    for shape in TIMING:
        taken = cuda_times(shape, kernels, "cuda", by_events)
        floors = [staged_seconds(shape, device), least_seconds(shape, device)] if device else []
        if floors and min(taken) < floors[1]:
            raise SystemExit(f"{shape}: {min(taken) * 1e6:.0f} us is less than anything can take on this device")
        every.append((*taken, *floors))
        told = [f"{each * 1e6:.0f}" for each in taken]
        rates = [f"{shape.flop / taken[0] / 1e12:.0f}", f"{shape.io_bytes / taken[0] / 1e9:.0f}"]
        lines.append(f"| {' | '.join([str(shape), *told, *rates, *floors_told(floors)])} |")
    means = [geometric_mean(column) for column in zip(*every, strict=True)]
    told = [f"**{each * 1e6:.0f}**" for each in means[: len(kernels)]]
    lines += [f"| {' | '.join(['geometric mean', *told, '', '', *floors_told(means[len(kernels) :])])} |", ""]
    lines.append(f"Reward of {own}: 1500 / {means[0] * 1e6:.0f} = {1500e-6 / means[0]:.3f}.")
    for name, mean in list(zip(kernels, means, strict=False))[1:]:
        lines.append(f"{own} takes {means[0] / mean:.2f} of the time of {name}.")
    if device:
        lines.append(f"It takes {means[0] / means[-2]:.2f} times the staged floor of this device.")
    return lines


def floors_told(floors: Sequence[float]) -> list[str]:
    return [f"{each * 1e6:.0f}" for each in floors] or ["-", "-"]


def cuda_times(shape: Shape, kernels: Mapping[str, Kernel], device: str, clock: Clock) -> list[float]:
    """The median of each kernel; each output is checked against the reference on the same inputs."""
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    for repeat in range(CUDA_REPEATS + 3):
        given = drawn_on(device, shape, repeat)
        expected = reference.kernel(*given)
        for name, kernel in kernels.items():
            flushed.zero_()
            taken, y = clock(kernel, given)
            if not agree(y, expected):
                check(y.cpu().numpy(), expected.cpu().numpy(), shape)
            if repeat >= 3:
                seconds[name].append(taken)
    return [median(each) for each in seconds.values()]


def agree(y: Any, expected: Any) -> bool:
    """Test :func:`check`'s rules on the device."""
    if y.shape != expected.shape or y.dtype != torch.float32:
        return False
    return bool(within(y, expected).all())


def by_events(kernel: Kernel, given: Sequence[Any]) -> tuple[float, Any]:
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
