"""Counts with a known truth: programs of expression, cells of many depths, and the noise of counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

ROWS = 1_000
"""Cells that are drawn at once: what is dense in between stays small."""


@dataclass(frozen=True)
class Simulated:
    """Counts (cells x genes) and what they were drawn from.

    ``rates`` are each gene's expected share of a cell's counts, rows summing to 1,
    before overdispersion and dropout; None where they were not asked for.
    """

    counts: sparse.csr_array
    rates: NDArray[np.float32] | None


@dataclass(frozen=True)
class Generator:
    """A made-up tissue: by default about as deep, and with genes about as rare and uneven, as a public 10x sample.

    Attributes
    ----------
    cells, genes : size.
    programs : low rank of the log-rates; each cell has one of them and shares in others.
    sharing : how much of a cell's expression comes from programs other than its own.
    contrast : standard deviation, in nats, of a program's effect on the genes that it touches.
    spread : standard deviation, in nats, of genes' overall abundance.
    depth : median counts of a cell; ``depth_spread`` is their standard deviation in nats.
    dispersion : of the negative binomial, whose variance is m + dispersion m^2.
    dropout : chance that a gene is missed in a cell altogether.
    """

    cells: int = 600
    genes: int = 12_000
    programs: int = 8
    sharing: float = 0.3
    contrast: float = 1.5
    spread: float = 1.5
    depth: float = 6_000.0
    depth_spread: float = 0.4
    dispersion: float = 0.1
    dropout: float = 0.02

    def draw(self, seed: int, *, truth: bool = True) -> Simulated:
        """Counts of the tissue that ``seed`` names; without ``truth`` rates are not kept."""
        rng = np.random.default_rng(seed)
        abundance = rng.normal(0, self.spread, self.genes)
        touched = rng.random((self.programs, self.genes)) < 0.15
        effects = rng.normal(0, self.contrast, (self.programs, self.genes)) * touched
        use = self.sharing * rng.dirichlet(np.full(self.programs, 0.3), self.cells)
        use[np.arange(self.cells), rng.integers(0, self.programs, self.cells)] += 1 - self.sharing
        depth = self.depth * np.exp(rng.normal(0, self.depth_spread, self.cells))
        counts, rates = [], []
        for at in range(0, self.cells, ROWS):
            rate = np.exp(abundance + use[at : at + ROWS] @ effects)
            rate /= rate.sum(axis=1, keepdims=True)
            mean = rate * depth[at : at + ROWS, None]
            if self.dispersion:
                mean *= rng.gamma(1 / self.dispersion, self.dispersion, mean.shape)
            mean *= rng.random(mean.shape) >= self.dropout
            counts.append(sparse.csr_array(rng.poisson(mean).astype(np.int32)))
            if truth:
                rates.append(rate.astype(np.float32))
        return Simulated(sparse.vstack(counts, format="csr"), np.concatenate(rates) if truth else None)
