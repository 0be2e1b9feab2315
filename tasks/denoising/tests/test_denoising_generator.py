"""The made-up tissue has the noise that it says it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sia_denoising import generator
from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator

PLAIN = Generator(cells=400, genes=200, dispersion=0.0, dropout=0.0, depth_spread=0.0)


def test_counts_average_to_the_rates() -> None:
    drawn = PLAIN.draw(0)
    assert drawn.rates is not None
    assert np.allclose(drawn.rates.sum(axis=1), 1, atol=1e-4)
    expected = drawn.rates * PLAIN.depth
    residual = (drawn.counts.toarray() - expected) / np.sqrt(expected)
    assert abs(residual.mean()) < 0.02
    assert abs(residual.std() - 1) < 0.02


def test_overdispersion_and_dropout_add_noise() -> None:
    def excess(tissue: Generator) -> float:
        drawn = tissue.draw(0)
        expected = drawn.rates * tissue.depth
        return float((((drawn.counts.toarray() - expected) ** 2 - expected) / expected**2)[expected > 20].mean())

    assert abs(excess(PLAIN)) < 0.02
    assert abs(excess(replace(PLAIN, dispersion=0.3)) - 0.3) < 0.05
    assert excess(replace(PLAIN, dropout=0.2)) > 0.1


def test_log_rates_are_of_low_rank() -> None:
    rates = replace(PLAIN, programs=4).draw(0).rates
    centred = np.log(rates) - np.log(rates).mean(axis=1, keepdims=True)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert singular[5] < 1e-4 * singular[0]


def test_a_seed_is_a_tissue_and_rows_drawn_at_once_do_not_show(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    first = PLAIN.draw(3).counts
    assert (first != PLAIN.draw(3, truth=False).counts).nnz == 0
    assert (first != PLAIN.draw(4).counts).nnz > 0
    monkeypatch.setattr(generator, "ROWS", 150)
    assert PLAIN.draw(3).counts.shape == first.shape


def test_by_default_cells_are_as_deep_and_genes_as_rare_and_uneven_as_in_a_real_sample(sample: Path) -> None:
    def figures(counts: Any) -> list[float]:
        genes = np.asarray(counts.mean(axis=0)).ravel()
        genes = genes[genes > 0]
        return [float(np.median(counts.sum(axis=1))), float(genes.mean()), float(np.log(genes).std())]

    rows = np.arange(0, 600, 5)  # as many cells as an instance has
    drawn, real = Generator().draw(0).counts[rows], read_counts(sample)[rows]
    assert np.allclose(figures(drawn), figures(real), rtol=0.2)
