"""Denoisers of the seed harness: each plan gives a valid one, and the steps do what they say."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import sparse, stats

from sia_denoising.generator import Generator
from sia_denoising.magic import Magic
from sia_denoising.metrics import Judge, deal

TISSUE = Generator(cells=80, genes=600, programs=4, depth=600)

GOOD = {"output": "0.8", "components": "20", "neighbours": "10", "t": "2", "posterior": "nb"}


@pytest.fixture(scope="module")
def judge() -> Judge:
    drawn = TISSUE.draw(0)
    train, test, genes = deal(drawn.counts, np.random.default_rng(1))
    assert drawn.rates is not None
    return Judge(train, test, drawn.rates[:, genes])


@pytest.fixture
def made(seed: ModuleType, judge: Judge, denoiser: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Denoise the judge's train side by a plan."""

    def denoised(**plan: str) -> np.ndarray:
        answer = seed.render(seed.plans.settled(plan))
        matrix: np.ndarray = denoiser(answer)(judge.train.astype(np.int32))
        return matrix

    return denoised


@pytest.fixture
def stages(seed: ModuleType) -> dict[str, Any]:
    """The names of the module that the default plan renders."""
    names: dict[str, Any] = {"__name__": "denoiser"}
    exec(seed.render(seed.plans.settled({}))["code"], names)
    return names


def test_the_first_plan_is_magic(made: Callable[..., np.ndarray], judge: Judge) -> None:
    here, there = made(), Magic().denoise(judge.train)
    # Components are exact there and approximate here, so the two agree as two seeds of MAGIC do.
    assert np.corrcoef(np.sqrt(here).ravel(), np.sqrt(there).ravel())[0, 1] > 0.999
    assert judge.measure(here)["mse_norm"] == pytest.approx(judge.measure(there)["mse_norm"], abs=0.01)


def test_every_value_of_every_field_makes_a_valid_answer(
    made: Callable[..., np.ndarray], seed: ModuleType, judge: Judge
) -> None:
    for name, values in seed.plans.FIELDS.items():
        for value in values:
            matrix = made(**{**GOOD, name: value})
            assert matrix.dtype == np.float32
            assert judge.fault(matrix) == "", (name, value)


def test_a_good_plan_beats_magic_by_metric_and_truth(seed: ModuleType, denoiser: Callable[..., Any]) -> None:
    drawn = Generator(cells=100).draw(0)  # as sparse as real cells
    assert drawn.rates is not None
    train, test, genes = deal(drawn.counts, np.random.default_rng(1))
    judge = Judge(train, test, drawn.rates[:, genes])
    good, magic = (judge.measure(denoiser(seed.render(seed.plans.settled(plan)))(judge.train)) for plan in (GOOD, {}))
    assert good["mse_norm"] > magic["mse_norm"] + 0.05
    assert good["balanced"] > magic["balanced"]
    assert good["true_mse"] < magic["true_mse"]


@pytest.mark.parametrize("tissue", [{}, {"depth": 24_000, "dispersion": 0.6}, {"spread": 2.2}, {"dropout": 0.2}])
def test_no_plan_is_farther_from_the_truth_than_magic(
    seed: ModuleType, denoiser: Callable[..., Any], tissue: dict[str, float]
) -> None:
    drawn = Generator(cells=120, genes=6_000, **tissue).draw(0)  # type: ignore[arg-type]
    assert drawn.rates is not None
    train, test, genes = deal(drawn.counts, np.random.default_rng(1))
    judge = Judge(train, test, drawn.rates[:, genes])
    magic = judge.measure(judge.magic)
    for output in ("rates", "0.6", "2"):
        metrics = judge.measure(denoiser(seed.render(seed.plans.settled({**GOOD, "output": output})))(judge.train))
        assert metrics["true_mse"] <= magic["true_mse"]
        assert metrics["true_kl"] <= magic["true_kl"]


def test_beside_the_result_little_is_dense(seed: ModuleType, denoiser: Callable[..., Any]) -> None:
    counts = Generator(cells=600, genes=5_000, depth=2_000).draw(0, truth=False).counts
    denoise = denoiser(seed.render(seed.plans.settled({**GOOD, "scales": "2", "rank": "8", "output": "0.8"})))
    denoise.__globals__.update(BLOCK=20, MOST_CELLS=100)
    tracemalloc.start()
    matrix = denoise(counts)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * matrix.nbytes


def test_sparse_empty_and_tiny_matrices_are_denoised_too(seed: ModuleType, denoiser: Callable[..., Any]) -> None:
    denoise = denoiser(seed.render(seed.plans.settled(GOOD)))
    counts = TISSUE.draw(2).counts
    assert np.array_equal(denoise(counts), denoise(counts.toarray()))
    some = counts.toarray()
    some[5] = 0
    assert not denoise(some)[5].any()
    assert denoise(some[:1]).shape == (1, some.shape[1])
    assert denoise(sparse.csr_array((4, 9), dtype=np.int32)).sum() == 0


def test_a_cell_of_a_number_that_is_none_spoils_no_other(seed: ModuleType, denoiser: Callable[..., Any]) -> None:
    denoise = denoiser(seed.render(seed.plans.settled(GOOD)))
    counts = TISSUE.draw(2).counts.toarray().astype(float)
    counts[5, 3] = np.nan
    matrix = denoise(counts)
    assert np.isfinite(matrix).all()
    assert np.array_equal(np.delete(matrix, 5, axis=0), denoise(np.delete(counts, 5, axis=0)))


def test_a_gene_that_holds_half_of_a_cell_stays_within_the_rule(seed: ModuleType, denoiser: Callable[..., Any]) -> None:
    counts = TISSUE.draw(3).counts.toarray()
    counts[:, 7] += np.random.default_rng(0).poisson(600, len(counts)).astype(np.int32)
    train, test, _ = deal(sparse.csr_array(counts), np.random.default_rng(0))
    judge = Judge(train, test)
    for output in seed.plans.FIELDS["output"]:
        denoise = denoiser(seed.render(seed.plans.settled({**GOOD, "output": output})))
        assert judge.fault(denoise(judge.train)) == ""


def test_the_expected_logarithm_is_that_of_poisson_counts(stages: dict[str, Any]) -> None:
    depth = np.array([50.0, 700.0])
    rate = np.array([[0.001, 0.3, 0.699], [0.01, 0.2, 0.79]], dtype=np.float32)
    values = stages["expected"](rate, depth)
    for cell in range(2):
        for gene in range(3):
            k = np.arange(2_000)
            chance = stats.poisson.pmf(k, rate[cell, gene] * depth[cell])
            value = np.expm1((chance * np.log1p(1e4 * k / depth[cell])).sum())
            assert values[cell, gene] == pytest.approx(value, rel=5e-3)


def test_the_expected_logarithm_of_large_counts_takes_no_memory_by_their_size(stages: dict[str, Any]) -> None:
    means, depth = np.array([0.0, 1.0, 250.0, 350.0, 5_000.0]), np.array([1_000.0, 40_000.0, 3_000_000.0])
    k = np.arange(7_000)
    direct = np.log1p(1e4 * k / depth[:, None]) @ stats.poisson.pmf(k[:, None], means)
    assert stages["log_means"](means, depth) == pytest.approx(direct, rel=1e-5)
    tracemalloc.start()
    stages["expected"](np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([2e7, 3e9]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10e6


def test_the_posterior_leaves_poisson_genes_and_heeds_dispersed_ones(stages: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    depth = np.full(3_000, 100.0)
    mean = np.full((3_000, 2), 50.0)
    mean[:, 1] *= rng.gamma(2, 0.5, 3_000)
    counts = rng.poisson(mean).astype(np.float32)
    rate = np.full((3_000, 2), 0.5, dtype=np.float32)
    stages["posterior"](rate, sparse.csr_array(counts), depth)
    after = rate * 100
    assert np.abs(after[:, 0] - 50).mean() < 1.0
    assert np.abs(after[:, 1] - mean[:, 1]).mean() < np.abs(50 - mean[:, 1]).mean() / 4
