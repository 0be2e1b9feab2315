"""The metrics' rewards, ways to game them, and the answers refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from sia_denoising.generator import Generator
from sia_denoising.magic import Magic
from sia_denoising.metrics import Judge, deal, shares

TISSUE = Generator(cells=150, genes=1_000, programs=4, spread=2.5, depth=1_000, dispersion=0.2)


@pytest.fixture(scope="module")
def judge() -> Judge:
    drawn = TISSUE.draw(0)
    train, test, genes = deal(drawn.counts, np.random.default_rng(1))
    assert drawn.rates is not None
    return Judge(train, test, drawn.rates[:, genes])


@pytest.fixture(scope="module")
def smoothed(judge: Judge) -> np.ndarray:
    return Magic().denoise(judge.train)


def test_the_two_sides_are_the_counts_and_genes_without_train_counts_go() -> None:
    counts = TISSUE.draw(2).counts
    train, test, genes = deal(counts, np.random.default_rng(0))
    assert ((train + test) != counts[:, genes]).nnz == 0
    assert train.sum(axis=0).min() >= 1
    assert 0.88 < train.sum() / counts.sum() < 0.92
    again, _, _ = deal(counts, np.random.default_rng(0))
    other, _, _ = deal(counts, np.random.default_rng(1))
    assert (again != train).nnz == 0
    assert other.shape != train.shape or (other != train).nnz > 0


def test_none_is_zero_and_perfect_is_one(judge: Judge) -> None:
    none = judge.measure(judge.train)
    perfect = judge.measure(judge._test)
    for name in ("mse_norm", "poisson_norm", "poisson_official", "balanced"):
        assert none[name] == pytest.approx(0, abs=1e-6)
        assert perfect[name] == pytest.approx(1, abs=1e-6)


def test_smoothing_earns_and_comes_nearer_to_the_truth(judge: Judge, smoothed: np.ndarray) -> None:
    none, metrics = judge.measure(judge.train), judge.measure(smoothed)
    assert metrics["mse_norm"] > 0.1
    assert metrics["poisson_norm"] > 0.3
    assert metrics["balanced"] == pytest.approx((metrics["mse_norm"] + metrics["poisson_norm"]) / 2)
    assert metrics["true_mse"] < none["true_mse"] / 2


def test_the_truth_is_the_best_by_poisson_and_not_by_mse(judge: Judge, smoothed: np.ndarray) -> None:
    assert judge._true is not None
    truth = judge._true * judge.train.sum(axis=1, keepdims=True)
    low = truth * (truth > 1)  # rare genes shrunk to nothing
    assert judge.measure(truth)["poisson_norm"] > judge.measure(smoothed)["poisson_norm"]
    assert judge.measure(truth)["poisson_norm"] > judge.measure(low)["poisson_norm"]
    # Here metric and truth part: no one would call the second matrix nearer.
    assert judge.measure(low)["mse_norm"] > judge.measure(truth)["mse_norm"]
    assert judge.measure(low)["true_mse"] > judge.measure(truth)["true_mse"]


def test_metrics_are_blind_to_the_scale_of_all(judge: Judge, smoothed: np.ndarray) -> None:
    big, small = judge.measure(smoothed * 100), judge.measure(smoothed)
    for name in ("mse_norm", "poisson_norm", "true_mse", "true_kl"):
        assert big[name] == pytest.approx(small[name], abs=1e-4)


def test_the_official_poisson_is_won_by_a_tiny_matrix_and_the_right_one_is_not(
    judge: Judge, smoothed: np.ndarray
) -> None:
    tiny, honest = judge.measure(smoothed * 1e-6), judge.measure(smoothed)
    assert tiny["poisson_official"] > honest["poisson_official"]
    assert tiny["poisson_norm"] == pytest.approx(honest["poisson_norm"], abs=1e-3)


def dumped(judge: Judge, smoothed: np.ndarray) -> np.ndarray:
    """Shrunk as the metric likes it, with the missing mass put on one gene."""
    shrunk = smoothed * (smoothed > np.quantile(smoothed, 0.7))
    shrunk[:, int(shares(smoothed).argmax())] += smoothed.sum(axis=1) - shrunk.sum(axis=1)
    return shrunk


def test_mass_dumped_on_one_gene_is_refused(judge: Judge, smoothed: np.ndarray) -> None:
    assert "mass was dumped on it" in judge.fault(dumped(judge, smoothed))
    assert judge.fault(smoothed) == ""


@pytest.mark.parametrize(
    ("hack", "message"),
    [
        (lambda matrix: matrix[:, :-1], "returned shape"),
        (lambda matrix: matrix[None], "returned shape"),
        (lambda matrix: matrix - 1e-3, "negative"),
        (lambda matrix: np.where(matrix > 5, np.nan, matrix), "not finite"),
        (lambda matrix: np.where(matrix > 5, np.inf, matrix), "not finite"),
        (lambda matrix: matrix * 0, "cells that had counts have none"),
        (lambda matrix: matrix.astype(np.float64) * 1e15, "above 1e12"),
        (lambda matrix: matrix * (np.arange(len(matrix)) > 0)[:, None], "1 cells that had counts"),
        # Shares of it are infinite, or no numbers: a bound on mass holds for neither, and a metric stops the run.
        (lambda matrix: matrix.astype(np.float64) * 1e-310, "cells come to less than"),
        (lambda matrix: matrix.astype(complex), "numpy array of numbers"),
        (lambda matrix: matrix.astype(str), "numpy array of numbers"),
        (lambda matrix: matrix.tolist(), "numpy array of numbers"),
        (lambda matrix: sparse.csr_array(matrix), "numpy array of numbers"),
    ],
)
def test_what_is_no_answer_says_why(judge: Judge, smoothed: np.ndarray, hack, message: str) -> None:  # type: ignore[no-untyped-def]
    assert message in judge.fault(hack(smoothed))
