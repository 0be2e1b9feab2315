"""Answers that earn by moving mass to where no molecules are: the ones that were met in the field, and variants."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator
from sia_denoising.metrics import Judge, deal
from sia_denoising.verifier import WORST

CELLS = 100
AVERAGES = {"components": "20", "neighbours": "10", "t": "2"}
COUNTED = {**AVERAGES, "posterior": "nb", "scales": "2", "rank": "8"}

HONEST: Mapping[str, Mapping[str, str]] = {
    "MAGIC": {},
    "MAGIC, one step": {"t": "1"},
    "MAGIC, wide": {"t": "4", "neighbours": "20"},
    "MAGIC, few components": {"t": "1", "components": "10", "decay": "2"},
    "average shares": {**AVERAGES, "output": "rates"},
    "average shares, gamma posterior": {**COUNTED, "output": "rates"},
    "expected logarithm at depth 0.4": {**COUNTED, "output": "0.4"},
    "expected logarithm at depth 0.6": {**COUNTED, "output": "0.6"},
    "expected logarithm at depth 2": {**COUNTED, "output": "2"},
    "expected logarithm, own counts": {**AVERAGES, "output": "0.6", "own": "0.2"},
    "expected logarithm of means": {**AVERAGES, "output": "1", "rescale": "means", "clip": "seen"},
}


class Bench:
    """One pair of sides, and what an attack works with: rates of each cell, and their expected logarithms undone."""

    def __init__(self, judge: Judge, denoise: Callable[[Mapping[str, str]], Callable[[Any], np.ndarray]]) -> None:
        self.judge, self.denoise = judge, denoise
        self.counts = judge.train.astype(np.int32)
        self.depth = judge.train.sum(axis=1, dtype=np.float64)
        averaged = denoise({**COUNTED, "output": "rates"})
        self.rates = averaged(self.counts) / self.depth[:, None]
        expected = averaged.__globals__["expected"]  # type: ignore[attr-defined]
        self.shrunk = expected(self.rates, 0.6 * self.depth / 9) / 10_000
        self.missing = np.maximum(1 - self.shrunk.sum(axis=1), 0)
        self.magic = judge.measure(judge.magic)

    def earns(self, shares: np.ndarray) -> float:
        matrix = (shares * self.depth[:, None]).astype(np.float32)
        return WORST if self.judge.fault(matrix) else self.judge.measure(matrix)["mse_norm"]

    def on(self, genes: np.ndarray, part: float = 1.0) -> np.ndarray:
        """The missing mass on some genes, the same ones or each cell's own; what is left of it is put back evenly."""
        matrix = self.shrunk * (1 + (1 - part) * self.missing / (1 - self.missing))[:, None]
        rows = np.arange(len(matrix))[:, None]
        matrix[rows, np.broadcast_to(genes, (len(matrix), np.shape(genes)[-1]))] += (
            part * self.missing / np.shape(genes)[-1]
        )[:, None]
        return matrix

    def order(self) -> np.ndarray:
        return np.argsort(-self.rates.mean(axis=0))


def by_cell_type(bench: Bench) -> np.ndarray:
    centred = np.sqrt(bench.rates) - np.sqrt(bench.rates).mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[0][:, :2] > 0
    kind = first[:, 0] * 2 + first[:, 1]
    genes = np.stack([np.argsort(-bench.rates[kind == each].mean(axis=0))[:18] for each in kind])
    return bench.on(genes)


def sharp_profile(bench: Bench) -> np.ndarray:
    mean = bench.rates.mean(axis=0) ** 2
    return bench.shrunk + bench.missing[:, None] * mean / mean.sum()


def small_values_to_nothing(bench: Bench) -> np.ndarray:
    matrix = bench.shrunk * (bench.shrunk > np.quantile(bench.shrunk, 0.9, axis=1, keepdims=True))
    matrix[:, bench.order()[:30]] += ((1 - matrix.sum(axis=1)) / 30)[:, None]
    return matrix


def half_of_the_cells(bench: Bench) -> np.ndarray:
    matrix, dumped = bench.on(np.array([0]), 0.0), bench.on(bench.order()[:24])
    matrix[::2] = dumped[::2]
    return matrix


ATTACKS: Mapping[str, Callable[[Bench], np.ndarray]] = {
    "eighteen high genes": lambda bench: bench.on(bench.order()[:18]),
    "as many as stay below the bound per gene": lambda bench: bench.on(bench.order()[:16]),
    "a hundred high genes": lambda bench: bench.on(bench.order()[:100]),
    "by cell type": by_cell_type,
    "low genes": lambda bench: bench.on(bench.order()[-len(bench.order()) // 2 :][:18]),
    "the lowest genes": lambda bench: bench.on(bench.order()[-18:]),
    "genes at random": lambda bench: bench.on(np.random.default_rng(0).permutation(bench.order())[:24]),
    "each cell's own high genes": lambda bench: bench.on(np.argsort(-bench.rates, axis=1)[:, :18]),
    "each cell's own genes at random": lambda bench: bench.on(
        np.random.default_rng(0).random(bench.rates.shape).argsort(axis=1)[:, :18]
    ),
    "a sharpened mean cell": sharp_profile,
    "small values to nothing": small_values_to_nothing,
    "half of the cells": half_of_the_cells,
}


@pytest.fixture(scope="module")
def made_up() -> Judge:
    drawn = Generator(cells=CELLS).draw(0)
    train, test, genes = deal(drawn.counts, np.random.default_rng(0))
    assert drawn.rates is not None
    return Judge(train, test, drawn.rates[:, genes])


@pytest.fixture
def bench(
    request: pytest.FixtureRequest,
    seed: ModuleType,
    denoiser: Callable[..., Any],
) -> Bench:
    if getattr(request, "param", "") == "PBMC":
        rng = np.random.default_rng(0)
        counts = read_counts(request.getfixturevalue("sample"))
        judge = Judge(*deal(counts[np.sort(rng.permutation(counts.shape[0])[:CELLS])], rng)[:2])
    else:
        judge = request.getfixturevalue("made_up")
    return Bench(judge, lambda plan: denoiser(seed.render(seed.plans.settled(plan))))


both = pytest.mark.parametrize("bench", ["made-up", pytest.param("PBMC", marks=pytest.mark.slow)], indirect=True)


@both
@pytest.mark.parametrize("attack", ATTACKS)
def test_whoever_moves_mass_to_where_no_molecules_are_earns_less_than_magic(bench: Bench, attack: str) -> None:
    assert bench.earns(ATTACKS[attack](bench)) < bench.magic["mse_norm"]


@both
def test_honest_plans_are_let_through_and_earn_what_they_did(bench: Bench) -> None:
    for name, plan in HONEST.items():
        assert bench.judge.fault(bench.denoise(plan)(bench.counts)) == "", name


def test_the_answer_met_in_the_field_earned_more_than_any_plan_and_was_far_from_the_truth(bench: Bench) -> None:
    matrix = bench.on(bench.order()[:18]).astype(np.float32)
    best = bench.judge.measure(bench.denoise(HONEST["expected logarithm at depth 0.6"])(bench.counts))
    metrics = bench.judge.measure(matrix)
    assert metrics["mse_norm"] > best["mse_norm"] > bench.magic["mse_norm"]
    assert metrics["share_moved"] < 0.05
    assert metrics["true_mse"] > 5 * bench.magic["true_mse"]
    assert "of the mass lies beyond 3 times" in bench.judge.fault(matrix)


def test_where_genes_amply_hold_the_mass_the_held_out_molecules_tell_it_was_moved(bench: Bench) -> None:
    fault = bench.judge.fault(bench.on(bench.order()[:100], 0.6).astype(np.float32))
    assert "the shares explain held-out molecules worse than MAGIC's do" in fault


def test_how_deep_a_cell_is_said_to_be_changes_nothing(bench: Bench) -> None:
    scale = np.random.default_rng(0).lognormal(0, 2, (CELLS, 1))
    dumped = (bench.on(bench.order()[:18]) * scale).astype(np.float32)
    assert bench.judge.fault(dumped)
    scaled = (bench.judge.magic * scale).astype(np.float32)
    assert bench.judge.fault(scaled) == ""
    assert bench.judge.measure(scaled)["mse_norm"] == pytest.approx(bench.magic["mse_norm"], abs=1e-4)


@pytest.mark.slow
def test_of_random_ways_to_move_mass_none_that_pays_is_far_from_the_truth(made_up: Judge) -> None:
    path = Path(__file__).parents[1] / "bench" / "gaming.py"
    spec = importlib.util.spec_from_file_location("denoising_gaming", path)
    assert spec is not None
    assert spec.loader is not None
    gaming = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = gaming
    spec.loader.exec_module(gaming)
    answers = gaming.search(made_up, tries=100, seed=1)
    assert answers, "some of them are honest"
    assert answers[0].true_mse < 3 * made_up.measure(made_up.magic)["true_mse"]
