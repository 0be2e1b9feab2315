"""MAGIC (van Dijk et al. 2018, "Recovering Gene Interactions from Single-Cell Data Using Data Diffusion").

Cells are points in the space of their principal components. A kernel, whose
width differs from cell to cell, makes a random walk of them, and a few steps of that
walk average each cell's expression over cells that are like it.

Written from the paper; the widths, the symmetry and the treatment of the cell itself
were settled by comparing numbers with the reference package.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.spatial import procrustes
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from sia_core.errors import UsageError

Matrix = Any
"""A scipy sparse matrix or a numpy array, cells x genes."""

Floats = NDArray[np.floating[Any]]

FEW_CELLS = 4_000
"""Up to this many, components come from the cells' inner products, which is faster."""

OVERSAMPLED, ITERATIONS = 10, 5
"""Of the subspace iteration: dimensions beyond those wanted, and rounds."""

TINY = 1e-14

BLOCK_BYTES = 64 * 2**20
"""About what a block of genes takes as a dense matrix while it is diffused."""

STEADY = 0.001
"""Automatic t: a step that moves the cells' shape by less, as a Procrustes disparity, was one too many."""

MOST_STEPS = 20


@dataclass(frozen=True)
class Magic:
    """MAGIC's settings, the published defaults.

    Attributes
    ----------
    knn : the neighbour whose distance is the width of a cell's kernel.
    knn_max : neighbours that a cell has at most; None is three times ``knn``.
    decay : exponent of the distance in the kernel exp(-(d / width)^decay).
    t : steps of the walk; None takes as many as still change the shape of the data.
    components : principal components in which distances are measured.
    solver : ``exact`` diffuses every gene; ``approximate`` the components, and projects back.
    threads : of the search for neighbours and of the diffusion.
    seed : of the random projections, which data of many cells need.
    """

    knn: int = 5
    knn_max: int | None = None
    decay: float = 1.0
    t: int | None = 3
    components: int = 100
    solver: Literal["exact", "approximate"] = "exact"
    threads: int = 2
    seed: int = 0

    def denoise(self, counts: Matrix) -> NDArray[np.float32]:
        """Counts (cells x genes) freed of noise, as expected counts of the same cells at their own depth.

        Counts are scaled to the median depth and their square root is diffused; both are undone.
        UsageError where they are negative, not finite, or of a single cell.
        """
        values = checked(counts)
        depth = np.asarray(values.sum(axis=1)).ravel()
        deep = depth > 0
        target = float(np.median(depth[deep])) if deep.any() else 1.0
        scale = np.divide(target, depth, out=np.zeros_like(depth), where=deep)
        values = sparse.diags_array(scale.astype(np.float32)).dot(values).tocsr()
        values.data = np.sqrt(values.data)
        matrix = self.impute(values)
        np.maximum(matrix, 0, out=matrix)  # projecting back overshoots
        np.square(matrix, out=matrix)
        matrix *= (depth / target)[:, None].astype(np.float32)
        return matrix

    def impute(self, values: Matrix) -> NDArray[np.float32]:
        """Values (cells x genes, already normalised) after ``t`` steps of the walk, as a dense matrix."""
        values = checked(values)
        scores, axes = principal_components(values, self.components, self.seed, self.solver == "approximate")
        walk = self.walk(scores)
        steps = self.t if self.t is not None else steady_steps(walk, scores)
        if self.solver == "exact":
            return diffuse(walk, values, steps, self.threads)
        for _ in range(steps):
            scores = walk @ scores
        matrix: NDArray[np.float32] = scores.astype(np.float32) @ axes.astype(np.float32)
        return matrix

    def walk(self, points: Floats) -> sparse.csr_array:
        """The walk's transition matrix (cells x cells, rows sum to 1) over points (cells x dimensions)."""
        cells = len(points)
        most = min(self.knn_max or 3 * self.knn, cells - 1)
        search = NearestNeighbors(n_neighbors=most + 1, algorithm="brute", n_jobs=self.threads).fit(points)
        distance, neighbour = search.kneighbors(points)
        # Rounding leaves a cell a little away from itself.
        distance[neighbour == np.arange(cells)[:, None]] = 0.0
        # A cell stands first among its own neighbours, so the knn-th other one has the index knn.
        width = np.sort(distance, axis=1)[:, [min(self.knn, most)]]
        weight = np.exp(-((distance / np.maximum(width, np.finfo(float).tiny)) ** self.decay))
        starts = np.arange(0, cells * (most + 1) + 1, most + 1)
        kernel = sparse.csr_array((weight.ravel(), neighbour.ravel(), starts), shape=(cells, cells))
        kernel = (kernel + kernel.T).tocsr()
        return sparse.csr_array(sparse.diags_array(1 / kernel.sum(axis=1)) @ kernel)


def checked(values: Matrix) -> sparse.csr_array:
    """The matrix as float32 CSR; UsageError where MAGIC cannot be run on it."""
    matrix = sparse.csr_array(values, dtype=np.float32)
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        raise UsageError(f"MAGIC needs a matrix of at least two cells and two genes, not one of shape {matrix.shape}")
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise UsageError("MAGIC needs values that are finite and not negative; remove or repair the others")
    return matrix


def principal_components(
    values: sparse.csr_array, most: int, seed: int, with_axes: bool = True
) -> tuple[Floats, Floats]:
    """Scores (cells x k) and, where wanted, axes (k x genes) of an approximation of rank k; the mean is left in.

    Leaving it in keeps the matrix sparse and changes no distance between cells. Randomised
    subspace iteration (Halko et al. 2011), as scikit-learn does it: the same seed gives the
    same subspace as there, which matters, as two seeds differ by percents in the result.
    """
    cells, genes = values.shape
    rank = min(most, cells - 1, genes - 1)
    if cells > FEW_CELLS or cells >= genes:
        svd = TruncatedSVD(rank, random_state=seed)
        return svd.fit_transform(values.astype(np.float64)), svd.components_
    inner = np.zeros((cells, cells))
    for block in gene_blocks(values):
        part = block.toarray()
        inner += part @ part.T
    basis = np.random.RandomState(seed).normal(size=(cells, rank + OVERSAMPLED))
    # On matrices this small, threads wait for one another longer than they work.
    with threadpool_limits(1, "blas"):
        # Each iteration multiplies by the matrix and its transpose, which the inner products do at once.
        for _ in range(ITERATIONS):
            basis = linalg.qr(inner @ basis, mode="economic")[0]
        root = linalg.cholesky(basis.T @ inner @ basis + TINY * np.eye(basis.shape[1]) * inner.trace())
        small = linalg.solve_triangular(root, basis.T @ inner, trans="T")
        turn, length, left = linalg.svd(small, full_matrices=False)
    scores = left[:rank].T * length[:rank]
    if not with_axes:
        return scores, np.empty((0, genes))
    return scores, (values.T @ (basis @ linalg.solve_triangular(root, turn[:, :rank]))).T


def gene_blocks(values: sparse.csr_array) -> list[sparse.csc_array]:
    """The matrix in blocks of genes, each of which is small when dense."""
    columns = values.tocsc()
    width = max(1, BLOCK_BYTES // (4 * values.shape[0]))
    return [columns[:, at : at + width] for at in range(0, values.shape[1], width)]


def diffuse(walk: sparse.csr_array, values: sparse.csr_array, steps: int, threads: int) -> NDArray[np.float32]:
    """``walk^steps @ values`` as a dense matrix, a block of genes at a time."""
    matrix = np.empty(values.shape, dtype=np.float32)
    single = walk.astype(np.float32)
    blocks = gene_blocks(values)
    starts = np.cumsum([0, *(block.shape[1] for block in blocks)])

    def one(at: int) -> None:
        part = blocks[at].toarray(order="C")
        for _ in range(steps):
            part = single @ part
        matrix[:, starts[at] : starts[at + 1]] = part

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(blocks))))
    return matrix


def steady_steps(walk: sparse.csr_array, points: Floats) -> int:
    """The number of steps at which one more hardly changes the cells' shape, and that one more, as published."""
    before = points
    for steps in range(1, MOST_STEPS):
        after = walk @ before
        if procrustes(before, after)[2] < STEADY:
            return steps + 1
        before = after
    return MOST_STEPS
