"""The counts of a file, ready for the task: cells and genes with counts, enough of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from sia_core.errors import UsageError
from sia_denoising.reader import NotCounts, read

LEAST_CELLS, LEAST_GENES = 40, 20
"""Fewer cannot be dealt out to the splits and still be denoised."""


def read_counts(path: Path) -> sparse.csr_array:
    """The counts in a file, without empty cells and genes; UsageError where it holds none, or too few."""
    try:
        counts = read(path)
    except NotCounts as error:
        raise UsageError(f"denoising: {error}") from None
    # A cell without a count says nothing, and a method that divides by depth would stumble over it.
    counts = counts[np.flatnonzero(counts.sum(axis=1))]
    counts = counts[:, np.flatnonzero(counts.sum(axis=0))]
    if counts.shape[0] < LEAST_CELLS or counts.shape[1] < LEAST_GENES:
        raise UsageError(
            f"denoising: {path} holds {counts.shape[0]} cells and {counts.shape[1]} genes with counts; "
            f"at least {LEAST_CELLS} and {LEAST_GENES} are needed"
        )
    return counts
