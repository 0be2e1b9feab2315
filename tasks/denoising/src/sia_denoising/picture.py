"""A picture of what a denoiser does: two genes before and after, and the cells in two dimensions."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from sia_core.errors import SiaError
from sia_core.plugins import Plugins
from sia_denoising.metrics import scaled_log
from sia_denoising.verifier import LIMITS, REQUIRES, SECONDS
from sia_runtime.sandbox.choosing import choose
from sia_runtime.sandbox.program_host import open_program

Floats = NDArray[np.floating[Any]]

ABUNDANT = 60
"""Genes among which the two that are shown are looked for."""

GROUPS = 6


def picture(code: str, module: str, counts: NDArray[np.integer[Any]]) -> bytes | None:
    """A PNG of counts (cells x genes) and what the module makes of them.

    None where matplotlib is not installed, no sandbox works here, or the module fails: its
    code is a stranger's and runs nowhere else.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    after = denoised(code, module, counts)
    return None if after is None else drawn(counts.astype(np.float32), after)


def denoised(code: str, module: str, counts: NDArray[np.integer[Any]]) -> Floats | None:
    """Counts that the module denoised in the strongest sandbox, or None."""
    plugins = Plugins.discover()
    try:
        sandbox = choose([plugins.create("sandbox", offer.name) for offer in plugins.of_kind("sandbox")]).sandbox
        opened = partial(open_program, sandbox, requires=REQUIRES, limits=LIMITS)
        with opened({f"{module}.py": code.encode()}, module) as program:
            called = program.call("denoise", [counts], seconds=SECONDS)
    except SiaError:
        return None
    matrix = called.value
    whole = isinstance(matrix, np.ndarray) and matrix.shape == counts.shape and matrix.dtype.kind in "fiu"
    return matrix if called.ended == "ok" and whole and np.isfinite(matrix).all() else None


def drawn(before: Floats, after: Floats) -> bytes:
    """The picture of two matrices: above two genes, below the cells, left before and right after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = scaled_log(before), scaled_log(after)
    one, other = two_genes(*logs)
    places = [PCA(2, random_state=0).fit_transform(each) for each in logs]
    group = KMeans(min(GROUPS, len(before)), n_init=3, random_state=0).fit_predict(places[1])
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    for column, (title, log, place) in enumerate(zip(("before", "after"), logs, places, strict=True)):
        genes, cells = panels[0][column], panels[1][column]
        genes.scatter(log[:, one], log[:, other], c=group, cmap="tab10", s=8, linewidths=0)
        genes.set(title=title, xlabel=f"gene {one}, log1p at 10,000 a cell", ylabel=f"gene {other}")
        cells.scatter(place[:, 0], place[:, 1], c=group, cmap="tab10", s=8, linewidths=0)
        cells.set(xlabel="principal component 1", ylabel="principal component 2")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def two_genes(before: Floats, after: Floats) -> tuple[int, int]:
    """Two genes that noise kept apart: of those that vary most, the pair whose correlation rises most."""
    candidates = np.sort(np.argsort(-before.var(axis=0))[:ABUNDANT])
    candidates = candidates[(before[:, candidates].std(axis=0) > 0) & (after[:, candidates].std(axis=0) > 0)]
    if len(candidates) < 2:
        return 0, 1
    gain = np.corrcoef(after[:, candidates].T) - np.corrcoef(before[:, candidates].T)
    place = int(np.triu(gain, 1).argmax())
    return int(candidates[place // len(candidates)]), int(candidates[place % len(candidates)])
