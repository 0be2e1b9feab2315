"""The reward of a kernel's output and times; nothing here runs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from sia_trimul.shapes import TOLERANCE, Device, Shape, geometric_mean, staged_seconds

IMPOSSIBLE = 0.5
"""A time below this share of what the matrix products alone take at the best rate seen is no time of a kernel."""

SEARCH_TOLERANCE = 0.9 * TOLERANCE
"""On search and gate: of kernels near the tolerance, some would pass there by luck, and fail on sealed."""

HOPELESS = 2.0
"""A kernel that takes this many times as long as the baseline is timed once."""


class Refused(Exception):
    """A kernel earns nothing; the message says why, short enough to learn from."""


def within(y: Any, reference: Any, tolerance: float = TOLERANCE) -> Any:
    """Which elements are close enough, for arrays and for tensors. What is not finite never is."""
    return abs(y - reference) <= tolerance + tolerance * abs(reference)


def check(y: Any, reference: Any, shape: Shape, tolerance: float = TOLERANCE) -> None:
    """Refused unless every element is within the tolerance, relative and absolute, of the reference."""
    if not isinstance(y, np.ndarray):
        raise Refused(f"at {shape}: kernel returned no array")
    if y.shape != reference.shape or y.dtype != np.float32:
        raise Refused(f"at {shape}: y is {y.dtype} {list(y.shape)}, and should be float32 {list(reference.shape)}")
    # What was never written may hold any bytes, also such as arithmetic warns of.
    with np.errstate(all="ignore"):
        beyond = ~within(y, reference, tolerance)
        if not beyond.any():
            return
        excess = np.where(np.isfinite(y), np.abs(y - reference) / (1 + np.abs(reference)), np.inf)
    worst = tuple(int(place) for place in np.unravel_index(int(np.argmax(excess)), y.shape))
    raise wrong(shape, worst, float(y[worst]), float(reference[worst]), float(beyond.mean()), tolerance)


def wrong(
    shape: Shape, worst: Sequence[int], y: float, reference: float, beyond: float, tolerance: float = TOLERANCE
) -> Refused:
    """The refusal that names the worst element and the share beyond the tolerance."""
    return Refused(
        f"wrong at {shape}: y{list(worst)} is {y:.5g} and should be {reference:.5g}; "
        f"{beyond:.2%} of the elements are further off than {tolerance:g}"
    )


@dataclass
class Times:
    """Seconds of a kernel and of the baseline on one shape, taken by turns."""

    shape: Shape
    kernel: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return median(self.kernel)

    @property
    def speedup(self) -> float:
        return median(self.baseline) / self.seconds

    def check_possible(self, least: float) -> None:
        """Refused where any call took less than is possible."""
        if min(self.kernel) < least:
            raise Refused(
                f"at {self.shape}: a call took {min(self.kernel) * 1e3:.3g} ms, and the matrix products alone take "
                f"{least * 1e3:.3g} ms at best: the work was done elsewhere"
            )


def summary(
    times: Sequence[Times], rate: float, device: Device | None = None
) -> tuple[float, Mapping[str, float], str]:
    """The speed-up over all shapes, the metrics, and a line of feedback.

    ``rate`` is what matrix products alone reach here, FLOP/s. A shape's floor is the time of its products at that rate;
    what a kernel takes beyond it goes into everything that is no product. Where the ``device``'s peaks are known, the
    floor of three stages stands beside it, which move their results through memory.
    """
    speedup = geometric_mean([each.speedup for each in times])
    metrics = {"speedup": speedup, "microseconds": geometric_mean([each.seconds * 1e6 for each in times])}
    for each in times:
        metrics[f"{each.shape}: ms"] = each.seconds * 1e3
        metrics[f"{each.shape}: ms of products alone"] = each.shape.flop / rate * 1e3
        if device is not None:
            metrics[f"{each.shape}: ms of three stages at best"] = staged_seconds(each.shape, device) * 1e3
        metrics[f"{each.shape}: GFLOP/s"] = each.shape.flop / each.seconds / 1e9
        metrics[f"{each.shape}: GB/s of x and y"] = each.shape.io_bytes / each.seconds / 1e9
    parts = ", ".join(f"{each.shape}: {each.seconds * 1e3:.3g} ms ({each.speedup:.2f}x)" for each in times)
    return speedup, metrics, f"{speedup:.2f} times the baseline's speed; {parts}"
