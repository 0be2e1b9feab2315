"""Whether two engines compute the same log-probabilities, as a sampler and a trainer of one policy must."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sia_core.errors import TrainingError


def mean_gap(gaps: Sequence[float], bound: float) -> float:
    """The mean of how far two engines' log-probabilities of sampled tokens lie apart, in nats.

    TrainingError where rounding does not explain them. In bfloat16 single tokens differ by half a nat between
    kernels that are both right, so the bounds are on the mean difference and on the divergence, which few large
    gaps raise. Where nothing was sampled, nothing differs: 0.
    """
    if not gaps:
        return 0.0
    mean, divergence = fmean(map(abs, gaps)), fmean(gap * gap / 2 for gap in gaps)
    if not (mean <= bound and divergence <= 2 * bound * bound):
        raise TrainingError(
            f"log-probabilities differ by {mean:.3g} nats on the mean, up to {max(map(abs, gaps)):.3g}, and "
            f"{divergence:.3g} nats of divergence; at most {bound:.3g} and {2 * bound * bound:.3g} are rounding"
        )
    return mean
