"""The kernels in results/ are right on every shape that a kernel has to be right on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sia_trimul
from sia_trimul.judging import check
from sia_trimul.shapes import CORRECTNESS, Shape, draw

RESULTS = Path(__file__).parents[1] / "results"
LARGE, GIB_FOR_LARGE = 512, 64
"""Sequences from this length on take intermediate results of gigabytes each."""


def gib_here() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30


def kernel_of(path: Path) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope["kernel"]


@pytest.mark.parametrize("name", ["kernel_cpu.py", "kernel_cuda.py"])
@pytest.mark.parametrize(
    "shape", [pytest.param(each, marks=[pytest.mark.slow] if each.n > 32 else [], id=str(each)) for each in CORRECTNESS]
)
def test_it_is_right(name: str, shape: Shape) -> None:
    if shape.n >= LARGE and gib_here() < GIB_FOR_LARGE:
        pytest.skip(f"{shape} takes more memory than the {gib_here():.0f} GiB here; {GIB_FOR_LARGE} are enough")
    sys.path.insert(0, str(Path(sia_trimul.__file__).parent / "programs"))
    import reference

    sys.path.pop(0)
    device = "cuda" if torch.cuda.is_available() and name == "kernel_cuda.py" else "cpu"
    x, mask, weights, config = draw(shape, 7)
    given = (torch.from_numpy(x), torch.from_numpy(mask), {name: torch.from_numpy(w) for name, w in weights.items()})
    with torch.no_grad():
        expected = reference.kernel(*given, config).numpy()
        moved = (given[0].to(device), given[1].to(device), {name: w.to(device) for name, w in given[2].items()})
        check(kernel_of(RESULTS / name)(*moved, config).cpu().numpy(), expected, shape)
