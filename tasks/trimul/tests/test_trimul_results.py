"""The kernels in results/ are right on every shape that a kernel has to be right on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sia_trimul.judging import Refused
from sia_trimul.shapes import CORRECTNESS, Distribution, Shape

RESULTS = Path(__file__).parents[1] / "results"
sys.path.insert(0, str(RESULTS.parent / "bench"))

import measure  # noqa: E402
import reference  # noqa: E402

LARGE, GIB_FOR_LARGE = 512, 64
"""Sequences from this length on take intermediate results of gigabytes each."""


def gib_here() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30


CUDA = torch.cuda.is_available()
INTERPRETED = 64
"""The longest sequences in Triton's interpreter, which stands in for a device; longer ones would take it minutes."""

PROGRAM = """
import importlib.util, pathlib, sys
import numpy as np, torch
import sia_trimul
from sia_trimul.judging import check
from sia_trimul.shapes import Shape, draw
sys.path.insert(0, str(pathlib.Path(sia_trimul.__file__).parent / "programs"))
import reference
path, device, *words = sys.argv[1:]
shape = Shape(*map(int, words[:3]), words[3], words[4] == "True")
spec = importlib.util.spec_from_file_location("kernel", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.set_grad_enabled(False)
x, mask, weights, config = draw(shape, 7)
weights = {name: torch.from_numpy(weight) for name, weight in weights.items()}
expected = reference.kernel(torch.from_numpy(x), torch.from_numpy(mask), weights, config).numpy()
moved = {name: weight.to(device) for name, weight in weights.items()}
y = module.kernel(torch.from_numpy(x).to(device), torch.from_numpy(mask).to(device), moved, config)
check(y.cpu().numpy(), expected, shape)
"""


SHAPES = [
    pytest.param(each, marks=[pytest.mark.slow] if each.n >= INTERPRETED else [], id=str(each)) for each in CORRECTNESS
]


def check_kernel(name: str, device: str, shape: Shape) -> None:
    """In a process of its own: whether Triton compiles or interprets is decided when it is imported."""
    if shape.n >= LARGE and gib_here() < GIB_FOR_LARGE:
        pytest.skip(f"{shape} takes more memory than the {gib_here():.0f} GiB here; {GIB_FOR_LARGE} are enough")
    words = map(str, (shape.n, shape.b, shape.c, shape.distribution, shape.masked))
    command = [sys.executable, "-c", PROGRAM, str(RESULTS / name), device, *words]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


# The table of CUDA times, with the CPU in the device's place.


def clock(kernel: Callable[..., Any], given: Sequence[Any]) -> tuple[float, Any]:
    return 1.0, kernel(*given)


@pytest.mark.parametrize("distribution", ["normal", "cauchy"])
def test_what_is_drawn_on_a_device_is_distributed_as_what_is_drawn_for_a_judge(distribution: Distribution) -> None:
    shape = Shape(48, 2, 32, distribution, masked=True)
    here, there = measure.given_for(shape, 1), measure.drawn_on("cpu", shape, 1)
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for mine, other in zip(here[:2], there[:2], strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        assert torch.allclose(mine.ravel().quantile(shares), other.ravel().quantile(shares), rtol=0.05, atol=0.02)
    assert there[2].keys() == here[2].keys()
    assert all(there[2][name].shape == weight.shape for name, weight in here[2].items())


def test_each_kernel_is_timed_by_turns_and_a_wrong_one_ends_the_table() -> None:
    shape = Shape(8, 1, 16, masked=True)
    assert measure.cuda_times(shape, {"a": reference.kernel, "b": reference.kernel}, "cpu", clock) == [1.0, 1.0]
    for wrong in (
        lambda x, mask, *rest: reference.kernel(x, torch.ones_like(mask), *rest),
        lambda *given: reference.kernel(*given).double(),
        lambda *given: reference.kernel(*given)[:, 1:],
        lambda *given: reference.kernel(*given) * float("nan"),
    ):
        with pytest.raises(Refused, match="8/1/16 normal masked"):
            measure.cuda_times(shape, {"wrong": wrong}, "cpu", clock)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cpu_kernel_is_right(shape: Shape) -> None:
    check_kernel("kernel_cpu.py", "cpu", shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cuda_kernel_is_right(shape: Shape) -> None:
    pytest.importorskip("triton", reason="needs Triton, for Linux alone: pip install 'sia-trimul[cuda]'")
    if not CUDA and shape.n > INTERPRETED:
        pytest.skip(f"{shape} takes a CUDA device; shapes up to {INTERPRETED} are interpreted")
    check_kernel("kernel_cuda.py", "cuda" if CUDA else "cpu", shape)
