"""The kernels in results/ are right on every shape that a kernel has to be right on."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import sia_trimul
from sia_trimul.device import module_of
from sia_trimul.judging import Refused
from sia_trimul.shapes import CORRECTNESS, TIMING, Shape

RESULTS = Path(__file__).parents[1] / "results"
sys.path.insert(0, str(RESULTS.parent / "bench"))

import measure  # noqa: E402
import reference  # noqa: E402


def seed_module(name: str) -> Any:
    """A module of the seed harness for a CUDA device."""
    seeds = Path(sia_trimul.__file__).parent
    folders = [str(seeds / "seed_cuda"), str(seeds / "seed")]
    sys.path[:0] = folders
    try:
        return importlib.import_module(name)
    finally:
        for name in ("plans", "fields", "renderer"):
            sys.modules.pop(name, None)
        sys.path[:] = [path for path in sys.path if path not in folders]


plans_cuda, renderer_cuda = seed_module("plans"), seed_module("renderer")


def gib_free() -> float:
    """Of memory, for a program that starts now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20


def gib_needed(shape: Shape) -> float:
    """Of memory, to compute a shape and its reference: 4.8, 7.3 and 11.8 were measured for the three largest."""
    return 4 + 2 * shape.io_bytes / 2**30


CUDA = torch.cuda.is_available()
TRITON = "needs Triton, for Linux alone: pip install 'sia-trimul[cuda]'"
INTERPRETED = 64
"""The longest sequences in Triton's interpreter, which stands in for a device; longer ones would take it minutes."""

PROGRAM = """
import importlib.util, pathlib, sys
import numpy as np, torch
import sia_trimul
from sia_trimul.device import check
from sia_trimul.shapes import TOLERANCE, Shape, draw
sys.path.insert(0, str(pathlib.Path(sia_trimul.__file__).parent / "programs"))
import reference
path, device, *words = sys.argv[1:]
shape = Shape(*map(int, words[:3]), words[3], words[4] == "True")
spec = importlib.util.spec_from_file_location("kernel", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.set_grad_enabled(False)
x, mask, weights, config = draw(shape, 7)
x, mask = torch.from_numpy(x), torch.from_numpy(mask)
weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
expected = reference.kernel(x, mask, weights, config)
moved = {name: weight.to(device) for name, weight in weights.items()}
y = module.kernel(x.to(device), mask.to(device), moved, config).cpu()
assert (y.shape, y.dtype) == (expected.shape, torch.float32)
check(y, expected, shape, TOLERANCE)
"""


SMALLEST = min(CORRECTNESS, key=lambda shape: (shape.n, not shape.masked))
LONG = 768
"""Sequences from which on the CPU takes minutes: there, `pytest -m exhaustive` has them."""


def marks_of(shape: Shape) -> list[pytest.MarkDecorator]:
    long = not CUDA and shape.n >= LONG
    return [] if shape is SMALLEST else [pytest.mark.slow, *([pytest.mark.exhaustive] if long else [])]


SHAPES = [pytest.param(each, marks=marks_of(each), id=str(each)) for each in CORRECTNESS]


def check_kernel(path: Path, device: str, shape: Shape) -> None:
    """In its own process: whether Triton compiles or interprets is decided when it is imported."""
    if gib_free() < gib_needed(shape):
        pytest.skip(f"{shape} takes {gib_needed(shape):.0f} GiB of memory, and {gib_free():.0f} are free")
    words = map(str, (shape.n, shape.b, shape.c, shape.distribution, shape.masked))
    command = [sys.executable, "-c", PROGRAM, str(path), device, *words]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


# The table of CUDA times, with the CPU in the device's place.


def clock(kernel: Callable[..., Any], inputs: Sequence[Any]) -> tuple[float, Any]:
    return 1.0, kernel(*inputs)


def test_each_kernel_is_timed_by_turns_and_a_wrong_one_ends_the_table() -> None:
    shape = Shape(8, 1, 16, masked=True)
    assert measure.cuda_times(shape, {"a": reference.kernel, "b": reference.kernel}, "cpu", clock) == [1.0, 1.0]
    for wrong in (
        lambda x, mask, *rest: reference.kernel(x, torch.ones_like(mask), *rest),
        lambda *inputs: reference.kernel(*inputs).double(),
        lambda *inputs: reference.kernel(*inputs)[:, 1:],
        lambda *inputs: reference.kernel(*inputs) * float("nan"),
    ):
        with pytest.raises(Refused, match="8/1/16 normal masked"):
            measure.cuda_times(shape, {"wrong": wrong}, "cpu", clock)


# The kernels.


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cpu_kernel_is_right(shape: Shape) -> None:
    check_kernel(RESULTS / "kernel_cpu.py", "cpu", shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cuda_kernel_is_right(shape: Shape, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason=TRITON)
    if not CUDA and shape.n > INTERPRETED:
        pytest.skip(f"{shape} takes a CUDA device; shapes up to {INTERPRETED} are interpreted")
    check_kernel(measure.cuda_kernel(tmp_path), "cuda" if CUDA else "cpu", shape)


# What plans for a CUDA device are rendered to.

PLANS = [plans_cuda.random_plan(random.Random(seed)) for seed in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
@pytest.mark.parametrize("shape", [Shape(17, 2, 128, "cauchy", True), Shape(24, 1, 80, "normal", True)], ids=str)
def test_each_plan_is_a_right_kernel(plan: Mapping[str, str], shape: Shape, tmp_path: Path) -> None:
    """In Triton's interpreter, whatever its tiles; bfloat16 between the stages is not exact enough for all inputs."""
    pytest.importorskip("triton", reason=TRITON)
    (tmp_path / "kernel.py").write_text(renderer_cuda.render({**plan, "half": "float16"}))
    check_kernel(tmp_path / "kernel.py", "cpu", shape)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_cuda_kernel_compiles_to_what_fits_a_multiprocessor(capability: int, tmp_path: Path) -> None:
    """Without a device: what Triton's compiler says of it for an A100 (8.0), and for an H100 or H200 (9.0)."""
    pytest.importorskip("triton", reason=TRITON)
    import compiled

    module = module_of(measure.cuda_kernel(tmp_path))
    for c in sorted({shape.c for shape in (*CORRECTNESS, *TIMING)}):
        kernels = compiled.compiled(module, Shape(32, 1, c), capability)
        assert [each.name for each in kernels] == ["normalise", "project", "finish"]
        assert not any(each.spilled for each in kernels)
        assert max(each.shared for each in kernels) <= compiled.SHARED_BYTES[capability]
        assert all(each.products for each in kernels[1:])
