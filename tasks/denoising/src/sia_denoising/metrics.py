"""Molecular cross-validation (Batson et al. 2019), the metrics upon it, and the rules that answers keep.

A cell's molecules are dealt to two sides: train ~ Binomial(counts, 0.9), test = counts - train.
A denoiser sees train alone. Given the cell's true expression the sides are close to independent,
so what predicts test from train predicts expression; the noise of test itself is no one's to predict.

Each metric compares with two marks: *none*, train as it is, scores 0; *perfect*, test itself, scores 1.
No method comes near 1, as that would take knowing the noise. What games each, and what guards:

``mse_norm`` (the paper's headline)
    Mean squared difference after scaling both sides to 10,000 a cell and log1p. It rewards the
    expectation of a *logarithm* at the depth of *test*, which is below the expression wherever
    counts are few: shrinking rare genes to nothing wins, though it is no truth, and what is taken
    away can be dumped on a few genes at the price of a few errors. The rules on moved mass stop the
    dump. It is blind to a cell's scale.
``poisson_norm``
    Negative log-likelihood of test, with the denoised matrix scaled to test's total as its rate.
    A proper score: the true rates are its optimum, and no distortion of them wins. A method may
    still win by little else than getting abundant genes right, since those hold most molecules.
``poisson_official``
    The same as the public benchmark computes it, with arguments swapped and the scale taken from
    train: multiplying everything by 1e-6 wins it. For comparison with published figures alone.
``balanced``
    The mean of ``mse_norm`` and ``poisson_norm``. What games the one costs in the other.

Where the truth is known, ``true_mse`` and ``true_kl`` say how far the result is from it.

Mass that is moved for the sake of ``mse_norm`` is bounded in two ways, both against MAGIC on the
same molecules: by how much of a cell lies beyond three times what its own counts and MAGIC give each gene
(``mass_lifted``), and by how much worse the shares explain the held-out molecules (``surprise``).
A distance from the counts would not do: an honest logarithm's expectation moves 0.3 of a cell from rare
to abundant genes, a dump 0.5. What tells them apart is where molecules then turn up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sia_denoising.magic import Magic

Counts: TypeAlias = Any
"""A scipy CSR array, cells x genes."""

Floats = NDArray[np.floating[Any]]

KEPT = 0.9
"""The share of a cell's molecules that train gets."""

PER_CELL = 10_000.0
FLOOR = 1e-6

FAINT = 1e-12
"""A cell that comes to less is no expectation of counts, and its shares could be infinite."""

MOVED = 0.05
"""A gene's mean share of a cell's counts may move by so much; more is mass dumped on it, or taken."""

LIFTED, LIFTED_OF_CELL, ODD_CELLS = 0.15, 0.35, 0.05
"""How much of the mass may be lifted: of all cells, and of any but the few that are like no other.

Twice the most that MAGIC and honest plans lift.
"""

AMPLE = 3.0
"""Mass is lifted where a gene has more than this many times what the cell's own counts or MAGIC give it."""

SURPRISE = 0.22
"""Nats a held-out molecule by which an answer may explain them worse than MAGIC does."""

DOUBT = 0.03
"""The part of the mean cell in what explains the molecules: a gene shrunk to nothing costs no fortune."""

REWARDS = ("mse_norm", "poisson_norm", "poisson_official", "balanced")


def deal(counts: Counts, rng: np.random.Generator) -> tuple[Counts, Counts, NDArray[np.intp]]:
    """Train, test, and the genes (indices) that are left: those without a count in train are dropped."""
    train = counts.copy()
    train.data = rng.binomial(counts.data, KEPT).astype(counts.data.dtype)
    test = counts.copy()
    test.data = counts.data - train.data
    genes = np.flatnonzero(train.sum(axis=0))
    train, test = train[:, genes], test[:, genes]
    train.eliminate_zeros()
    test.eliminate_zeros()
    return train, test, genes


def scaled_log(matrix: Floats) -> NDArray[np.float32]:
    """log(1 + x), each cell scaled to 10,000 first; a cell of zeros stays zeros."""
    total = matrix.sum(axis=1, dtype=np.float64, keepdims=True)
    factor = np.divide(PER_CELL, total, out=np.zeros_like(total), where=total > 0)
    values: NDArray[np.float32] = (matrix * factor).astype(np.float32)
    return np.log1p(values, out=values)


def shares(matrix: Floats) -> Floats:
    """Each gene's mean share of a cell's counts."""
    total = matrix.sum(axis=1, dtype=np.float64)
    means: Floats = (1 / total[total > 0]) @ matrix[total > 0] / max(1, int((total > 0).sum()))
    return means


def profiles(matrix: Floats) -> Floats:
    """Each cell's counts as shares of it; a cell of zeros stays zeros."""
    total = matrix.sum(axis=1, dtype=np.float64, keepdims=True)
    result: Floats = (matrix * np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)).astype(np.float32)
    return result


def poisson(rate: Floats, observed: Floats) -> float:
    """Mean negative log-likelihood of what was observed, less what does not depend on the rate."""
    return float(np.mean(rate - observed * np.log(rate + FLOOR), dtype=np.float64))


class Judge:
    """Measures denoised matrices of one pair of sides. The losses of *none* and *perfect* are taken once.

    ``rates``, where the truth is known, are the true shares (cells x genes) of the genes of train.
    ``seed`` is of MAGIC, which every answer is compared with.
    """

    def __init__(self, train: Counts, test: Counts, rates: Floats | None = None, seed: int = 0) -> None:
        self._seed = seed
        self.train: Floats = train.toarray().astype(np.float32)
        self._test: Floats = test.toarray().astype(np.float32)
        self._log = scaled_log(self._test)
        self._shares = shares(self.train)
        self._true = None if rates is None else rates / rates.sum(axis=1, keepdims=True)
        self._none = self._losses(self.train)
        self._perfect = self._losses(self._test)

    @cached_property
    def magic(self) -> Floats:
        """MAGIC's estimate for train."""
        return Magic(seed=self._seed).denoise(self.train)

    @property
    def bytes(self) -> int:
        """About what it comes to hold in memory."""
        return 5 * self.train.nbytes + (0 if self._true is None else self._true.nbytes)

    def fault(self, denoised: Any) -> str:
        """Why the matrix is no answer; empty where it is one."""
        if not isinstance(denoised, np.ndarray) or denoised.dtype.kind not in "fiu":
            return "denoise() must return a numpy array of numbers"
        if denoised.shape != self.train.shape:
            return f"denoise() returned shape {denoised.shape} for counts of shape {self.train.shape}"
        if not np.isfinite(denoised).all():
            return "the denoised matrix holds values that are not finite"
        if (denoised < 0).any():
            return "the denoised matrix holds negative values"
        if denoised.max(initial=0) > 1e12:
            return "the denoised matrix holds values above 1e12; return expected counts"
        total = denoised.sum(axis=1, dtype=np.float64)
        emptied = (total <= 0) & (self.train.sum(axis=1) > 0)
        if emptied.any():
            return f"{int(emptied.sum())} cells that had counts have none after denoising"
        faint = (total > 0) & (total < FAINT)
        if faint.any():
            return f"{int(faint.sum())} cells come to less than {FAINT:g} in all; return expected counts"
        moved = np.abs(shares(denoised) - self._shares)
        worst = int(moved.argmax())
        if moved[worst] > MOVED:
            return (
                f"the mean share of gene {worst} in a cell's counts moved by {moved[worst]:.3f}, above {MOVED}: "
                f"mass was dumped on it or taken from it"
            )
        return self._moved(denoised)

    def _moved(self, denoised: Floats) -> str:
        """Why too much mass was moved; empty where it was not."""
        lifted, surprise = self._lifted(denoised), self._surprise(denoised)
        beyond = f"of the mass lies beyond {AMPLE:g} times what the counts or MAGIC give those genes"
        if (share := float(lifted.mean())) > LIFTED:
            return f"{share:.3f} {beyond}, above {LIFTED}: mass was dumped on them"
        if (share := float(np.quantile(lifted, 1 - ODD_CELLS))) > LIFTED_OF_CELL:
            return f"in some cells {share:.3f} {beyond}, above {LIFTED_OF_CELL}: mass was dumped on them"
        if surprise > SURPRISE:
            return (
                f"the shares explain held-out molecules worse than MAGIC's do, by {surprise:.3f} nats a molecule, "
                f"above {SURPRISE}: mass was moved to where no molecules are"
            )
        return ""

    @cached_property
    def _ample(self) -> Floats:
        """The most of a cell that a gene has before mass counts as lifted."""
        limits: Floats = AMPLE * np.maximum(profiles(self.train), profiles(self.magic))
        return limits

    def _lifted(self, denoised: Floats) -> Floats:
        """The part of each cell that lies beyond what genes amply have."""
        parts: Floats = np.maximum(profiles(denoised) - self._ample, 0).sum(axis=1, dtype=np.float64)
        return parts

    def _surprise(self, denoised: Floats) -> float:
        """By how many nats a molecule the shares explain the held-out ones worse than MAGIC's shares."""
        return self._nats(denoised) - self._magic_nats

    @cached_property
    def _magic_nats(self) -> float:
        return self._nats(self.magic)

    def _nats(self, denoised: Floats) -> float:
        """Nats a held-out molecule at a cell's shares, with a little of the mean cell mixed in."""
        cell, gene = self._test.nonzero()
        counts = self._test[cell, gene]
        share = (1 - DOUBT) * profiles(denoised)[cell, gene] + DOUBT * self._shares[gene]
        return float(-(counts * np.log(share)).sum(dtype=np.float64) / max(1.0, float(counts.sum(dtype=np.float64))))

    def measure(self, denoised: Floats) -> Mapping[str, float]:
        """Every metric of a matrix without fault."""
        losses = self._losses(denoised)
        metrics = {f"{name}_norm": self._normalised(name, losses) for name in ("mse", "poisson")}
        metrics["poisson_official"] = self._normalised("poisson_official", losses)
        metrics["balanced"] = (metrics["mse_norm"] + metrics["poisson_norm"]) / 2
        metrics["mse"], metrics["poisson"] = losses["mse"], losses["poisson"]
        metrics["share_moved"] = float(np.abs(shares(denoised) - self._shares).max())
        metrics["mass_lifted"], metrics["surprise"] = float(self._lifted(denoised).mean()), self._surprise(denoised)
        if self._true is not None:
            metrics.update(true_errors(denoised, self._true))
        return metrics

    def _losses(self, denoised: Floats) -> dict[str, float]:
        rate = denoised.astype(np.float32)
        rate *= np.float32(self._test.sum(dtype=np.float64) / max(float(denoised.sum(dtype=np.float64)), FLOOR))
        difference = scaled_log(denoised)
        difference -= self._log
        official = denoised * np.float32(self._test.sum(dtype=np.float64) / self.train.sum(dtype=np.float64))
        return {
            "mse": float(np.square(difference, out=difference).mean(dtype=np.float64)),
            "poisson": poisson(rate, self._test),
            "poisson_official": poisson(self._test, official),
        }

    def _normalised(self, name: str, losses: Mapping[str, float]) -> float:
        span = self._none[name] - self._perfect[name]
        return (self._none[name] - losses[name]) / span if span else 0.0


def true_errors(denoised: Floats, rates: Floats) -> dict[str, float]:
    """How far a matrix is from true shares: squared difference of log1p at 10,000 a cell, and KL in nats a molecule."""
    share = denoised / denoised.sum(axis=1, dtype=np.float64, keepdims=True)
    apart = scaled_log(denoised)
    apart -= scaled_log(rates)
    divergence = rates * (np.log(rates + FLOOR / PER_CELL) - np.log(share + FLOOR / PER_CELL))
    return {
        "true_mse": float(np.mean(apart**2, dtype=np.float64)),
        "true_kl": float(divergence.sum(axis=1, dtype=np.float64).mean()),
    }
