"""Denoises single-cell counts: ``denoise(counts)``.

Expression of a cell is estimated as shares of its counts, averaged over cells like it,
and turned into the counts that are to be expected. PLAN says how each step is done.
"""

import numpy as np
from scipy import sparse

PLAN = {}

MOST_CELLS = 3000  # up to so many, components are exact
BLOCK = 500  # cells or genes that are worked on at once: beside the result, little is dense
SAMPLE = 100  # cells on which it is found how far to go
AXES = 100  # principal axes of MAGIC; a plan takes the first of them
HELD = 1 / 9  # of a cell's depth: what molecular cross-validation holds out
PER_CELL = 1e4
SUMMED = 300.0  # up to this mean of a count, means of logarithms are summed over all counts
MOVED = 0.045  # a gene's mean share of a cell may move by so much
FAINT = 1e-10  # added to shares before their logarithm is taken
TINY = 1e-12


def denoise(counts):
    """Expected counts (cells x genes, float32, not negative) of a matrix of counts, dense or sparse."""
    counts = sparse.csr_array(counts).astype(np.float32)
    depth = counts.sum(axis=1, dtype=np.float64)
    filled = np.flatnonzero(depth > 0)  # without cells of a NaN, too
    if len(filled) < 3:
        return counts.toarray()
    if len(filled) == len(depth):
        return pipeline(counts, depth)
    made = np.zeros(counts.shape, dtype=np.float32)
    made[filled] = pipeline(counts[filled], depth[filled])
    return made


def pipeline(counts, depth):
    share = sparse.diags_array((1 / depth).astype(np.float32)) @ counts
    points = components(features(share, depth), AXES)
    rate = estimate(counts, share, depth, points[:, : int(PLAN["components"])])
    if PLAN["output"] != "roots":
        plain = rate.copy()
        heeded(rate, counts, share, depth)
        toward(rate, plain, share, depth, points)
    if PLAN["clip"] == "seen":
        most = np.maximum(counts.max(axis=0).toarray(), 1)
        for rows in blocks(len(rate)):
            rate[rows] = np.minimum(rate[rows], most / depth[rows, None])
        normalise(rate)
    keep(rate, share)
    rate *= depth[:, None].astype(np.float32)
    return rate


def blocks(size):
    return [slice(at, min(at + BLOCK, size)) for at in range(0, size, BLOCK)]


def normalised(rate):
    return rate / np.maximum(rate.sum(axis=1, keepdims=True), TINY)


def normalise(rate):
    rate /= np.maximum(rate.sum(axis=1, keepdims=True), TINY)


# --- Rates ------------------------------------------------------------------------


def estimate(counts, share, depth, points):
    """Each gene's share of a cell's expression, from cells like it."""
    rate = averaged(points, share, int(PLAN["neighbours"]))
    if PLAN["scales"] == "2":
        rate += averaged(points, share, 2 * int(PLAN["neighbours"]))
    normalise(rate)
    if PLAN["rank"] != "0":
        rate *= 0.7
        use, programs = factorised(counts, points, int(PLAN["rank"]))
        for rows in blocks(len(rate)):
            rate[rows] += 0.3 * normalised(use[rows] @ programs)
    return rate


def features(share, depth):
    """Values for distances between cells."""
    if PLAN["transform"] == "log":
        return np.log1p(share * np.float32(PER_CELL))
    return np.sqrt(share * np.float32(np.median(depth)))


def components(values, wanted):
    """Scores of the cells on the principal axes, the longest first; the mean is left in."""
    wanted = min(wanted, min(values.shape) - 1)
    if values.shape[0] <= MOST_CELLS:
        values = values.toarray() if sparse.issparse(values) else values
        inner = (values @ values.T).astype(np.float64)
        length, vectors = np.linalg.eigh(inner)
        return (vectors[:, -wanted:] * np.sqrt(np.maximum(length[-wanted:], 0)))[:, ::-1]
    basis = np.random.default_rng(0).normal(size=(values.shape[1], wanted + 10)).astype(np.float32)
    for _ in range(4):
        basis = np.linalg.qr(values.T @ (values @ basis))[0]
    left, length, _ = np.linalg.svd(values @ basis, full_matrices=False)
    return (left * length)[:, :wanted]


def averaged(points, share, knn):
    """Shares after a few steps of a random walk over near cells."""
    step = walk(points, knn, float(PLAN["decay"]))
    columns = share.tocsc()
    made = np.empty(share.shape, dtype=np.float32)
    for genes in blocks(share.shape[1]):
        values = columns[:, genes].toarray()
        values = np.sqrt(values) if PLAN["output"] == "roots" else values
        for _ in range(int(PLAN["t"])):
            values = step @ values
        made[:, genes] = np.square(values) if PLAN["output"] == "roots" else values
    return made


def walk(points, knn, decay):
    """Transition probabilities: a kernel as wide as the distance to the knn-th neighbour, 3 knn neighbours at most."""
    cells = len(points)
    knn = min(knn, cells - 1)
    most = min(3 * knn, cells - 1)
    square = (points**2).sum(axis=1)
    nearest, distance = [], []
    for block in blocks(cells):
        rows = np.arange(block.start, block.stop)
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
    """A Poisson factorisation (Lee and Seung 2001), begun from groups of near cells: use of programs, and programs."""
    rank = min(rank, len(points) - 1)
    random = np.random.default_rng(0)
    middle = points[random.permutation(len(points))[:rank]]
    for _ in range(8):
        apart = (middle**2).sum(axis=1) - 2 * points @ middle.T
        group = apart.argmin(axis=1)
        for each in set(group.tolist()):
            middle[each] = points[group == each].mean(axis=0)
    member = np.eye(rank, dtype=np.float32)[group]
    use = (member * 0.8 + 0.2 / rank) * counts.sum(axis=1)[:, None]
    whole = counts.sum(axis=0) / counts.sum()
    sums = member.T @ counts
    programs = 0.9 * sums / np.maximum(sums.sum(axis=1, keepdims=True), 1) + 0.1 * whole
    for _ in range(rounds):
        total, heard = np.maximum(programs.sum(axis=1), TINY), np.zeros_like(programs)
        for rows in blocks(len(use)):
            seen = counts[rows].toarray()
            use[rows] *= (seen / np.maximum(use[rows] @ programs, TINY)) @ programs.T / total
            heard += use[rows].T @ (seen / np.maximum(use[rows] @ programs, TINY))
        programs *= heard / np.maximum(use.sum(axis=0)[:, None], TINY)
    return use, programs


# --- The cell's own counts --------------------------------------------------------------


def heeded(rate, counts, share, depth):
    """Rates pulled to the cell's own counts, in place."""
    own = np.float32(PLAN["own"])
    if own:
        for rows in blocks(len(rate)):
            rate[rows] = (1 - own) * rate[rows] + own * share[rows].toarray()
    if PLAN["posterior"] == "nb":
        posterior(rate, counts, depth)
    if PLAN["rescale"] == "means":
        rate *= (share.mean(axis=0) / np.maximum(rate.mean(axis=0), TINY)).astype(np.float32)
    normalise(rate)


def posterior(rate, counts, depth):
    """The mean of a gamma around each rate, once the cell's own counts are seen (negative binomial); in place.

    A gene's dispersion is what its counts vary more than a Poisson would around the rates.
    """
    excess, squares, total = np.zeros((3, rate.shape[1]))
    for rows in blocks(len(rate)):
        mean = rate[rows] * depth[rows, None].astype(np.float32)
        square = mean**2
        excess += ((counts[rows].toarray() - mean) ** 2 - mean).sum(axis=0, dtype=np.float64)
        squares += square.sum(axis=0, dtype=np.float64)
        total += mean.sum(axis=0, dtype=np.float64)
    dispersion = np.clip(excess / np.maximum(squares, TINY), 0, 10)
    # A gene with few counts says little of its dispersion.
    dispersion = (dispersion * total / (total + 20)).astype(np.float32)
    for rows in blocks(len(rate)):
        mean = rate[rows] * depth[rows, None].astype(np.float32)
        rate[rows] *= (1 + dispersion * counts[rows].toarray()) / (1 + dispersion * mean)


# --- From rates to the counts that a metric of logarithms asks for ---------------------


def toward(rate, plain, share, depth, points):
    """Rates turned into what the plan puts out, as far as that is no farther from the average shares than MAGIC is.

    Average shares are nearest to the truth. Half of the way is for the cell's own counts, what is left for logarithms.
    """
    some = np.unique(np.linspace(0, len(rate) - 1, SAMPLE).astype(int))
    most = apart(plain[some], roots(points, share, some))
    part = least(rate[some], plain[some], plain[some], share[some], most / 2)
    for rows in blocks(len(rate)):
        rate[rows] = between(rate[rows], plain[rows], part)
    part = least(asked(rate[some], depth[some]), rate[some], plain[some], share[some], most)
    for rows in blocks(len(rate)):
        rate[rows] = between(asked(rate[rows], depth[rows]), rate[rows], part)


def least(made, near, plain, share, most):
    """The least part of the way to what is near that takes shares within a distance of the average ones."""

    def within(part):
        found = between(made, near, part).copy()
        keep(found, share)
        return (apart(plain, found) <= most).all()

    if within(0):
        return 0
    beyond, part = 0, 1
    for _ in range(5):
        middle = (beyond + part) / 2
        beyond, part = (beyond, middle) if within(middle) else (middle, part)
    return part


def asked(rate, depth):
    """The rates, or where the plan says so expected logarithms at some multiple of the depth that is held out."""
    if PLAN["output"] == "rates":
        return rate
    return normalised(expected(rate, np.maximum(depth * HELD * float(PLAN["output"]), 1.0)))


def roots(points, share, some):
    """MAGIC of some cells: averages of roots, squared."""
    step = walk(points, 5, 1.0)
    return normalised(np.square((step[some] @ step @ step @ np.sqrt(share)).toarray()))


def apart(plain, made):
    """How far shares are from the average ones: mean square of logarithms, and nats a molecule."""
    logarithms = np.log1p(PER_CELL * made) - np.log1p(PER_CELL * plain)
    nats = plain * (np.log(plain + FAINT) - np.log(made + FAINT))
    return np.array([np.square(logarithms).mean(), nats.sum(axis=1).mean()])


def between(made, plain, part):
    """Shares whose logarithms lie between those of two matrices, a part of the way to the second."""
    if part == 0:
        return made
    return normalised(np.expm1((1 - part) * np.log1p(PER_CELL * made) + part * np.log1p(PER_CELL * plain)))


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
    """E[log1p(1e4 k / depth)] for k ~ Poisson(m): cells x grid of m, which rises from 0."""
    few = grid[grid <= SUMMED]
    most = int(few[-1] + 8 * np.sqrt(few[-1]) + 12)
    k = np.arange(most)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most)))])
    chance = np.exp(k * np.log(np.maximum(few, 1e-300))[:, None] - few[:, None] - factorial)
    chance[0] = k == 0
    scale = PER_CELL / depth[:, None]
    summed = np.log1p(scale * k) @ chance.T
    # Past that the second order of Taylor is off by less than 1e-5, and sums would take memory with the largest count.
    many = grid[len(few) :]
    expanded = np.log1p(scale * many) - many * np.square(scale / (1 + scale * many)) / 2
    return np.concatenate([summed, expanded], axis=1)


def keep(rate, share):
    """Moves no gene's mean share far from that in the counts, in place; others make room."""
    before = share.mean(axis=0)
    for _ in range(20):
        after = rate.mean(axis=0)
        wanted = np.clip(after, before - MOVED, before + MOVED)
        far = np.abs(after - wanted) > 1e-3
        if not far.any():
            break
        rate *= np.where(far, wanted / np.maximum(after, TINY), 1).astype(np.float32)
        normalise(rate)
