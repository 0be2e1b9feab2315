"""Denoises single-cell counts: ``denoise(counts)``.

Expression of a cell is estimated as shares of its counts, averaged over cells like it,
and turned into the counts that are to be expected. PLAN says how each step is done.
"""

import numpy as np
from scipy import sparse

PLAN = {}

MOST_CELLS = 3000  # up to so many, components are exact
HELD = 1 / 9  # of a cell's depth: what molecular cross-validation holds out
PER_CELL = 1e4
MOVED = 0.045  # a gene's mean share of a cell may move by so much
APART = 0.4  # nats a molecule by which what is made of rates may explain one worse than they do
TINY = 1e-12


def denoise(counts):
    """Expected counts (cells x genes, float32, not negative) of a matrix of counts, dense or sparse."""
    counts = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    counts = counts.astype(np.float32)
    depth = counts.sum(axis=1, dtype=np.float64)
    filled = depth > 0
    made = np.zeros_like(counts)
    if filled.sum() < 3:
        made[filled] = counts[filled]
        return made
    made[filled] = pipeline(counts[filled], depth[filled])
    return made


def pipeline(counts, depth):
    share = counts / depth[:, None].astype(np.float32)
    rate = estimate(counts, share, depth)
    if PLAN["posterior"] == "nb":
        rate = posterior(counts, rate, depth)
    if PLAN["rescale"] == "means":
        rate *= share.mean(axis=0) / np.maximum(rate.mean(axis=0), TINY)
    rate = normalised(rate)
    if PLAN["output"] not in ("roots", "rates"):
        rate = tempered(normalised(expected(rate, np.maximum(depth * HELD * float(PLAN["output"]), 1.0))), rate)
    deep = depth[:, None].astype(np.float32)
    if PLAN["clip"] == "seen":
        rate = normalised(np.minimum(rate * deep, np.maximum(counts.max(axis=0), 1)))
    return kept(rate, share) * deep


def normalised(rate):
    return rate / np.maximum(rate.sum(axis=1, keepdims=True), TINY)


# --- Rates ------------------------------------------------------------------------


def estimate(counts, share, depth):
    """Each gene's share of a cell's expression, from cells like it."""
    points = components(features(share, depth), int(PLAN["components"]))
    rate = averaged(points, share, int(PLAN["neighbours"]))
    if PLAN["scales"] == "2":
        rate = (rate + averaged(points, share, 2 * int(PLAN["neighbours"]))) / 2
    if PLAN["rank"] != "0":
        rate = 0.7 * normalised(rate) + 0.3 * factorised(counts, points, int(PLAN["rank"]))
    own = float(PLAN["own"])
    return (1 - own) * normalised(rate) + own * share


def features(share, depth):
    """Values for distances between cells."""
    if PLAN["transform"] == "log":
        return np.log1p(share * np.float32(PER_CELL))
    return np.sqrt(share * np.float32(np.median(depth)))


def components(values, wanted):
    """Scores of the cells on the principal axes; the mean is left in."""
    wanted = min(wanted, min(values.shape) - 1)
    if len(values) <= MOST_CELLS:
        inner = (values @ values.T).astype(np.float64)
        length, vectors = np.linalg.eigh(inner)
        return vectors[:, -wanted:] * np.sqrt(np.maximum(length[-wanted:], 0))
    basis = np.random.default_rng(0).normal(size=(values.shape[1], wanted + 10)).astype(np.float32)
    for _ in range(4):
        basis = np.linalg.qr(values.T @ (values @ basis))[0]
    left, length, _ = np.linalg.svd(values @ basis, full_matrices=False)
    return (left * length)[:, :wanted]


def averaged(points, share, knn):
    """Shares after a few steps of a random walk over near cells."""
    step = walk(points, knn, float(PLAN["decay"]))
    values = np.sqrt(share) if PLAN["output"] == "roots" else share
    for _ in range(int(PLAN["t"])):
        values = step @ values
    return np.square(values) if PLAN["output"] == "roots" else values


def walk(points, knn, decay):
    """Transition probabilities: a kernel as wide as the distance to the knn-th neighbour, 3 knn neighbours at most."""
    cells = len(points)
    knn = min(knn, cells - 1)
    most = min(3 * knn, cells - 1)
    square = (points**2).sum(axis=1)
    nearest, distance = [], []
    for at in range(0, cells, 1000):
        rows = np.arange(at, min(at + 1000, cells))
        apart = square[rows, None] + square[None] - 2 * points[rows] @ points.T
        apart[np.arange(len(rows)), rows] = -1.0  # a cell stands first among its own neighbours
        near = np.argpartition(apart, most, axis=1)[:, : most + 1]
        length = np.sqrt(np.maximum(np.take_along_axis(apart, near, axis=1), 0))
        nearest.append(near)
        distance.append(length)
    nearest, distance = np.concatenate(nearest), np.concatenate(distance)
    width = np.partition(distance, knn, axis=1)[:, [knn]]
    weight = np.exp(-((distance / np.maximum(width, TINY)) ** decay)).astype(np.float32)
    starts = np.arange(0, cells * (most + 1) + 1, most + 1)
    kernel = sparse.csr_array((weight.ravel(), nearest.ravel(), starts), shape=(cells, cells))
    kernel = (kernel + kernel.T).tocsr()
    return sparse.diags_array((1 / kernel.sum(axis=1)).astype(np.float32)) @ kernel


def factorised(counts, points, rank, rounds=12):
    """Shares from a Poisson factorisation (Lee and Seung 2001), begun from groups of near cells."""
    rank = min(rank, len(points) - 1)
    random = np.random.default_rng(0)
    middle = points[random.permutation(len(points))[:rank]]
    for _ in range(8):
        apart = (middle**2).sum(axis=1) - 2 * points @ middle.T
        group = apart.argmin(axis=1)
        for each in set(group.tolist()):
            middle[each] = points[group == each].mean(axis=0)
    depth = counts.sum(axis=1, keepdims=True)
    use = (np.eye(rank, dtype=np.float32)[group] * 0.8 + 0.2 / rank) * depth
    whole = counts.sum(axis=0) / counts.sum()
    sums = np.eye(rank, dtype=np.float32)[group].T @ counts
    programs = 0.9 * sums / np.maximum(sums.sum(axis=1, keepdims=True), 1) + 0.1 * whole
    for _ in range(rounds):
        use *= (counts / np.maximum(use @ programs, TINY)) @ programs.T / np.maximum(programs.sum(axis=1), TINY)
        ratio = counts / np.maximum(use @ programs, TINY)
        programs *= (use.T @ ratio) / np.maximum(use.sum(axis=0)[:, None], TINY)
    return normalised(use @ programs)


def posterior(counts, rate, depth):
    """The mean of a gamma around each rate, once the cell's own counts are seen (negative binomial).

    A gene's dispersion is what its counts vary more than a Poisson would around the rates.
    """
    mean = rate * depth[:, None].astype(np.float32)
    excess = ((counts - mean) ** 2 - mean).sum(axis=0, dtype=np.float64)
    dispersion = np.clip(excess / np.maximum((mean**2).sum(axis=0, dtype=np.float64), TINY), 0, 10)
    # A gene with few counts says little of its dispersion.
    total = mean.sum(axis=0, dtype=np.float64)
    dispersion = (dispersion * total / (total + 20)).astype(np.float32)
    return rate * (1 + dispersion * counts) / (1 + dispersion * mean)


# --- From rates to the counts that a metric of logarithms asks for ---------------------


def expected(rate, depth):
    """expm1 of the mean of log1p(1e4 k / depth) for counts k ~ Poisson(rate * depth): the best guess of a logarithm."""
    mean = rate * depth[:, None].astype(np.float32)
    # The mean of the logarithm is smooth in the mean of the counts, so a table on a grid serves all genes.
    low, points = 1e-5, 160
    step = (np.log(max(float(mean.max()), 1.0) * 1.001) - np.log(low)) / (points - 1)
    grid = np.concatenate([[0.0], low * np.exp(step * np.arange(points))])
    with np.errstate(divide="ignore"):
        place = np.where(mean > low, 1 + (np.log(mean) - np.float32(np.log(low))) / np.float32(step), mean / low)
    below = np.minimum(place.astype(np.int32), points - 1)
    above = place - below
    table = np.expm1(log_means(grid, depth)).astype(np.float32)
    rows = np.arange(len(table))[:, None]
    return table[rows, below] * (1 - above) + table[rows, below + 1] * above


def log_means(grid, depth):
    """E[log1p(1e4 k / depth)] for k ~ Poisson(m): cells x grid of m."""
    most = int(grid[-1] + 8 * np.sqrt(grid[-1]) + 12)
    k = np.arange(most)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most)))])
    chance = np.exp(k * np.log(np.maximum(grid, 1e-300))[:, None] - grid[:, None] - factorial)
    chance[0] = k == 0
    return np.log1p(PER_CELL * k / depth[:, None]) @ chance.T


def tempered(made, rate):
    """``made``, mixed with the rates until it explains a molecule nearly as well as they do."""
    for _ in range(20):
        apart = (rate * np.log(np.maximum(rate, TINY) / np.maximum(made, TINY))).sum(axis=1)
        if apart.mean() <= APART:
            break
        made = 0.9 * made + 0.1 * rate
    return made


def kept(rate, share):
    """Rates whose mean share no gene moves far from that in the counts; others make room."""
    before = share.mean(axis=0)
    for _ in range(20):
        after = rate.mean(axis=0)
        wanted = np.clip(after, before - MOVED, before + MOVED)
        far = np.abs(after - wanted) > 1e-3
        if not far.any():
            break
        rate = normalised(rate * np.where(far, wanted / np.maximum(after, TINY), 1).astype(np.float32))
    return rate
