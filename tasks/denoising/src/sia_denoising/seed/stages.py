"""Denoises single-cell counts: ``denoise(counts)``, or ``python denoiser.py counts.npz out.npz``.

Expression of a cell is estimated as shares of its counts, averaged over cells like it,
and turned into the counts that are to be expected. PLAN says how each step is done.
"""

import numpy as np
from scipy import sparse

PLAN = {}

MOST_CELLS = 3000  # up to so many, components are exact
HELD = 1 / 9  # counts are predicted for this share of a cell's depth, as molecular cross-validation deals them
PER_CELL = 1e4
MOVED = 0.045  # a gene's mean share of a cell may move by so much
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
    weight = PLAN["poisson"]
    if weight != "only":
        rate = normalised(expected(rate, depth, counts, float(weight)))
    made = kept(rate, share) * depth[:, None].astype(np.float32)
    if PLAN["clip"] == "seen":
        made = np.minimum(made, np.maximum(counts.max(axis=0), 1))
    if PLAN["round"] == "yes":
        whole = np.round(made)
        made = np.where(whole.sum(axis=1, keepdims=True) > 0, whole, made)
    return made


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
    """What distances between cells are taken of."""
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
    values = np.sqrt(share) if PLAN["average"] == "sqrt" else share
    for _ in range(int(PLAN["t"])):
        values = step @ values
    return np.square(values) if PLAN["average"] == "sqrt" else values


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


# --- From rates to the counts that a metric asks for ---------------------------------


def expected(rate, depth, counts, weight):
    """The best guess of a cell's counts, if errors are weighed as squares of log1p and as Poisson likelihood.

    For k ~ Poisson(m) at the depth of what is held out, and y = log1p(1e4 k / depth), the guess
    u = log1p(d) minimises (u - E[y])^2 + weight * b * (c * d - m log d). With weight 0 that is
    expm1(E[y]), in closed form. Otherwise c is, for each cell, what makes its guesses sum to 1e4;
    the problem is convex in u. The ratio b of the two losses is taken from a split of the counts.
    """
    held = np.maximum(depth * HELD, 1.0)
    mean = rate * held[:, None].astype(np.float32)
    low, points = 1e-5, 160
    step = (np.log(max(float(mean.max()), 1.0) * 1.001) - np.log(low)) / (points - 1)
    grid = np.concatenate([[0.0], low * np.exp(step * np.arange(points))])
    with np.errstate(divide="ignore"):
        place = np.where(mean > low, 1 + (np.log(mean) - np.float32(np.log(low))) / np.float32(step), mean / low)
    below = np.minimum(place.astype(np.int32), points - 1)
    above = place - below
    logs = log_means(grid, held)
    guess = logs
    if weight:
        many = [
            np.bincount(i, 1 - f, points + 1) + np.bincount(i + 1, f, points + 1)
            for i, f in zip(below, above, strict=True)
        ]
        guess = balanced(logs, grid, np.array(many), weight * ratio(counts, depth))
    table = np.expm1(guess).astype(np.float32)
    table[:, 0] = 0
    rows = np.arange(len(table))[:, None]
    return table[rows, below] * (1 - above) + table[rows, below + 1] * above


def log_means(grid, held):
    """E[log1p(1e4 k / held)] for k ~ Poisson(m): cells x grid of m."""
    most = int(grid[-1] + 8 * np.sqrt(grid[-1]) + 12)
    k = np.arange(most)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most)))])
    chance = np.exp(k * np.log(np.maximum(grid, 1e-300))[:, None] - grid[:, None] - factorial)
    chance[0] = k == 0
    return np.log1p(PER_CELL * k / held[:, None]) @ chance.T


def balanced(logs, grid, many, weight):
    """log1p of the guesses, cells x grid; ``many`` genes of a cell lie at each point of the grid."""
    low, high = np.full(len(logs), 1e-9), np.full(len(logs), 10 * weight)
    guess = np.maximum(logs, 1e-6)
    for _ in range(26):
        price = np.sqrt(low * high)
        for _ in range(8):  # Newton, from the last guess
            above = np.exp(guess)
            less = np.maximum(above - 1, TINY)
            slope = 2 * (guess - logs) + price[:, None] * above - weight * grid * above / less
            curve = 2 + price[:, None] * above + weight * grid * above / less**2
            guess = np.minimum(np.maximum(guess - slope / curve, guess * 0.2), 14.0)
        much = (many * np.expm1(guess)).sum(axis=1) > PER_CELL
        low, high = np.where(much, price, low), np.where(much, high, price)
    return guess


def ratio(counts, depth):
    """How much a unit of Poisson loss weighs beside one of squared log error: each against doing nothing."""
    random = np.random.default_rng(0)
    part = counts[random.permutation(len(counts))[:100]].astype(np.int64)
    train = random.binomial(part, 1 - HELD / (1 + HELD))
    test = (part - train).astype(np.float32)
    train = train.astype(np.float32)
    fair = train * (test.sum() / max(train.sum(), 1.0))
    logs = [np.log1p(PER_CELL * each / np.maximum(each.sum(axis=1, keepdims=True), 1)) for each in (train, test)]
    squares = np.mean((logs[0] - logs[1]) ** 2)
    likelihood = np.mean((fair - test * np.log(fair + 1e-6)) - (test - test * np.log(test + 1e-6)))
    return float(squares / max(likelihood, TINY))


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


if __name__ == "__main__":
    import sys

    if len(sys.argv) != 3:
        sys.exit("usage: python denoiser.py counts.npz out.npz")
    with np.load(sys.argv[1], allow_pickle=False) as held:
        if "indptr" in held.files:
            given = sparse.csr_array((held["data"], held["indices"], held["indptr"]), shape=tuple(held["shape"]))
        else:
            given = held[held.files[0]]
    np.savez_compressed(sys.argv[2], denoised=denoise(given))
