"""The shapes that a kernel is checked and timed on, what they cost, and their inputs.

B is the batch, N the length of the sequence, C the channels of input and output, H =
128 those in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

H = 128
EPS = 1e-5
TOLERANCE = 2e-2
"""Relative and absolute, on each element, against the float32 reference."""

Distribution = Literal["normal", "cauchy"]
CAUCHY_SCALE = 2.0
MASKED_SHARE = 0.2


@dataclass(frozen=True)
class Shape:
    """One case: x is (B, N, N, C), drawn from ``distribution``; ``masked`` has zeros in the mask."""

    n: int
    b: int
    c: int
    distribution: Distribution = "normal"
    masked: bool = False

    def __str__(self) -> str:
        return f"{self.n}/{self.b}/{self.c} {self.distribution}{' masked' if self.masked else ''}"

    @property
    def flop(self) -> float:
        """Of the matrix products: five projections, the product over k, and the output projection."""
        m = self.b * self.n**2
        return 2.0 * m * self.c * 5 * H + 2.0 * self.b * H * self.n**3 + 2.0 * m * H * self.c

    @property
    def io_bytes(self) -> float:
        """Of x and y alone, in float32: what even one perfectly fused kernel moves."""
        return 2.0 * 4 * self.b * self.n**2 * self.c


def _both(*shapes: tuple[int, int, int]) -> list[Shape]:
    return [
        Shape(*each, distribution, masked)
        for each in shapes
        for distribution in ("normal", "cauchy")
        for masked in (False, True)
    ]


CORRECTNESS = _both(
    (32, 1, 128), (64, 2, 256), (128, 1, 768), (256, 1, 128), (768, 2, 128), (1024, 1, 384), (1024, 1, 768)
)

TIMING = (
    Shape(256, 2, 128, "normal"),
    Shape(768, 1, 128, "cauchy"),
    Shape(256, 2, 384, "normal", True),
    Shape(512, 1, 128, "normal"),
    Shape(1024, 1, 128, "cauchy"),
    Shape(768, 1, 384, "normal", True),
    Shape(1024, 1, 384, "normal"),
)

CPU_CORRECTNESS = (
    Shape(17, 2, 128, "cauchy", True),
    Shape(32, 1, 128, "normal"),
    Shape(48, 2, 256, "normal", True),
    Shape(48, 1, 256, "cauchy"),
)
CPU_TIMING = (Shape(64, 1, 128, "normal", True), Shape(80, 1, 128, "cauchy"))


def draw(shape: Shape, seed: int) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """x, mask, weights and config of a case, float32, as :func:`kernel` is called with them."""
    rng = np.random.default_rng(seed)

    def normal(*size: int, scale: float = 1.0) -> Any:
        drawn = rng.standard_normal(size, dtype=np.float32)
        drawn *= np.float32(scale)
        return drawn

    size = (shape.b, shape.n, shape.n, shape.c)
    if shape.distribution == "cauchy":
        # The quotient of two normal numbers is a Cauchy number; of float32, one in some millions is zero.
        below = normal(*size)
        below[below == 0] = 1
        x = normal(*size, scale=CAUCHY_SCALE)
        x /= below
    else:
        x = normal(*size)
    mask = np.ones(size[:3], np.float32)
    if shape.masked:
        mask = (rng.random(size[:3], dtype=np.float32) >= MASKED_SHARE).astype(np.float32)
    names = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    weights = {
        "norm.weight": normal(shape.c),
        "norm.bias": normal(shape.c),
        **{f"{name}.weight": normal(H, shape.c, scale=H**-0.5) for name in names},
        "to_out_norm.weight": normal(H),
        "to_out_norm.bias": normal(H),
        "to_out.weight": normal(shape.c, H, scale=shape.c**-0.5),
    }
    return x, mask, weights, {"dim": shape.c, "hidden_dim": H, "eps": EPS}


@dataclass(frozen=True)
class Device:
    """Peaks of a device: dense fp16 tensor FLOP/s and bytes a second of its memory."""

    name: str
    flops: float
    bandwidth: float


DEVICES = (
    Device("H200", 989e12, 4.8e12),
    Device("H100", 989e12, 3.35e12),
    Device("A100", 312e12, 2.0e12),
    Device("B200", 2250e12, 8.0e12),
)
_BANDWIDTH_SHARE, _TENSOR_SHARE = 0.90, 0.65


def device_of(name: str) -> Device | None:
    """The peaks of a device by the name that its driver gives; None where they are not known."""
    return next((device for device in DEVICES if device.name in name), None)


def staged_seconds(shape: Shape, device: Device) -> float:
    """Seconds of three stages that reach 90% of the bandwidth or 65% of the tensor peak, whichever binds each."""
    m = shape.b * shape.n**2
    part = 2.0 * m * H
    stages = (
        (2.0 * m * shape.c * 5 * H, shape.io_bytes / 2 + 3 * part),
        (2.0 * shape.b * H * shape.n**3, 3 * part),
        (2.0 * m * H * shape.c, shape.io_bytes / 2 + 2 * part),
    )
    return sum(
        max(flop / (_TENSOR_SHARE * device.flops), moved / (_BANDWIDTH_SHARE * device.bandwidth))
        for flop, moved in stages
    )


def least_seconds(shape: Shape, device: Device) -> float:
    """The least seconds possible: all products at the tensor peak, or x and y moved once at full bandwidth."""
    return max(shape.flop / device.flops, shape.io_bytes / device.bandwidth)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))
