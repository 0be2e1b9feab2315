"""MAGIC: what it does to counts, and that it is the published method."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse

from sia_core.errors import UsageError
from sia_denoising import magic as ours
from sia_denoising.generator import Generator
from sia_denoising.magic import Magic, checked, diffuse, principal_components, steady_steps
from sia_denoising.metrics import true_errors

SMALL = Generator(cells=120, genes=300, programs=4)


@pytest.fixture(scope="module")
def counts() -> sparse.csr_array:
    return SMALL.draw(0).counts


def test_the_denoised_are_nearer_to_the_truth_than_the_counts() -> None:
    drawn = SMALL.draw(1)
    assert drawn.rates is not None
    before = true_errors(drawn.counts.toarray() + 1e-3, drawn.rates)
    for solver in ("exact", "approximate"):
        after = true_errors(Magic(solver=solver).denoise(drawn.counts) + 1e-3, drawn.rates)
        assert after["true_mse"] < before["true_mse"] / 2
        assert after["true_kl"] < before["true_kl"] / 2


def test_a_cell_keeps_about_its_depth(counts: sparse.csr_array) -> None:
    matrix = Magic().denoise(counts)
    assert matrix.shape == counts.shape
    assert matrix.dtype == np.float32
    # Squares of averaged roots fall short of averages.
    assert np.all(matrix.sum(axis=1) < counts.sum(axis=1) * 1.1)
    assert np.corrcoef(matrix.sum(axis=1), counts.sum(axis=1))[0, 1] > 0.95


def test_no_step_leaves_the_values_as_they_are(counts: sparse.csr_array) -> None:
    assert np.allclose(Magic(t=0).denoise(counts), counts.toarray(), atol=1e-3)


def test_the_walk_is_a_walk_over_near_cells() -> None:
    points = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0]])
    walk = Magic(knn=1, knn_max=2).walk(points).toarray()
    assert np.allclose(walk.sum(axis=1), 1)
    assert walk[:3, 3:].sum() == walk[3:, :3].sum() == 0
    # A step to the nearest neighbour, at its own width, weighs exp(-1) against staying; both ways are added.
    assert walk[0, 1] / walk[0, 0] == pytest.approx(np.exp(-1))


def test_cells_that_are_alike_to_the_last_count_are_no_trouble() -> None:
    same = np.tile(np.arange(1, 21), (10, 1))
    assert np.allclose(Magic().denoise(same), same, rtol=1e-4)


def test_an_empty_cell_stays_empty(counts: sparse.csr_array) -> None:
    some = counts.toarray()
    some[3] = 0
    matrix = Magic().denoise(some)
    assert not matrix[3].any()
    assert np.isfinite(matrix).all()


def test_components_are_the_same_by_either_road(counts: sparse.csr_array, monkeypatch: pytest.MonkeyPatch) -> None:
    few, axes = principal_components(checked(counts), 20, 3)
    monkeypatch.setattr(ours, "FEW_CELLS", 0)
    many, other_axes = principal_components(checked(counts), 20, 3)
    assert np.allclose(few @ axes, many @ other_axes, atol=1e-3 * np.abs(few).max())


def test_blocks_and_threads_change_nothing(counts: sparse.csr_array, monkeypatch: pytest.MonkeyPatch) -> None:
    values = checked(counts)
    walk = Magic().walk(principal_components(values, 10, 0)[0])
    whole = diffuse(walk, values, 3, 1)
    monkeypatch.setattr(ours, "BLOCK_BYTES", 4 * values.shape[0] * 7)
    assert np.array_equal(diffuse(walk, values, 3, 2), whole)
    assert np.allclose(whole, np.linalg.matrix_power(walk.toarray(), 3) @ values.toarray(), atol=1e-3)


def test_automatic_t_stops_where_steps_change_little(counts: sparse.csr_array) -> None:
    scores, _ = principal_components(checked(counts), 20, 0)
    walk = Magic().walk(scores)
    steps = steady_steps(walk, scores)
    assert 2 <= steps < ours.MOST_STEPS
    assert np.array_equal(Magic(t=None, components=20).impute(counts), Magic(t=steps, components=20).impute(counts))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1.0, np.nan], [1, 2]]), "finite and not negative"),
        (np.array([[1.0, -2], [1, 2]]), "finite and not negative"),
        (np.ones((1, 5)), "at least two cells"),
    ],
)
def test_what_cannot_be_denoised_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Magic().denoise(values)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["exact", "approximate"])
def test_it_agrees_with_the_reference(solver: str) -> None:
    warnings.simplefilter("ignore")
    reference = pytest.importorskip("magic", reason="the reference package is not installed: sia-denoising[test]")
    values = sparse.csr_matrix(Generator(cells=400).draw(0).counts, dtype=float).sqrt()
    for steps in (3, None) if solver == "approximate" else (3,):
        theirs = reference.MAGIC(solver=solver, t=steps or "auto", random_state=0, verbose=0).fit_transform(values)
        here = Magic(solver=solver, t=steps).impute(values)
        assert np.abs(here - theirs).mean() < 1e-3 * np.abs(theirs).mean()
