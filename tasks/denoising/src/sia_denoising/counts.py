"""Reading counts: ``.npz``, ``.h5ad`` and 10x ``.mtx``. Malformed files end with an error that says what is wrong."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io, sparse

from sia_core.errors import UsageError

ENDINGS = (".npz", ".h5ad", ".mtx", ".mtx.gz")

LEAST_CELLS, LEAST_GENES = 40, 20
"""Fewer cannot be dealt out to the splits and still be denoised."""


def read_counts(path: Path) -> sparse.csr_array:
    """The counts in a file, cells x genes, as int32; UsageError where it does not hold any.

    A ``.npz`` is what ``scipy.sparse.save_npz`` writes, or holds ``data``, ``indices``, ``indptr``
    and ``shape`` of a CSR matrix (cells are rows), or one dense array. A ``.mtx`` of 10x has genes
    as rows; ``genes.tsv`` or ``features.tsv`` beside it, or else the longer side, tells which they are.
    """
    readers = {".npz": _npz, ".h5ad": _h5ad, ".mtx": _mtx, ".gz": _mtx}
    if not path.name.endswith(ENDINGS):
        raise UsageError(f"denoising: {path} is none of {', '.join(ENDINGS)}; convert it to one of them")
    try:
        found = readers[path.suffix](path)
    except UsageError:
        raise
    except MemoryError:
        raise UsageError(f"denoising: {path} does not fit into memory; take fewer cells of it") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"denoising: {path} cannot be read: {said}; check the file, or write it anew") from None
    return _counts(found, path)


def _npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as held:
        if {"data", "indices", "indptr", "shape"} <= set(held.files):
            kind = held["format"].item() if "format" in held.files else b"csr"
            kind = kind.decode() if isinstance(kind, bytes) else str(kind)
            if kind not in ("csr", "csc"):
                raise _malformed(path, f"a sparse matrix in the format {kind!r}; save it as CSR")
            made = {"csr": sparse.csr_array, "csc": sparse.csc_array}[kind]
            parts = held["data"], held["indices"], held["indptr"]
            matrix = made(parts, shape=tuple(int(side) for side in held["shape"]))
            matrix.check_format(full_check=True)
            return matrix
        dense = [held[name] for name in held.files if held[name].ndim == 2]
    if len(dense) != 1:
        raise _malformed(path, "neither data, indices, indptr and shape of a CSR matrix nor exactly one dense matrix")
    return dense[0]


def _h5ad(path: Path) -> Any:
    try:
        import anndata
    except ImportError:
        raise UsageError(
            f"denoising: {path} needs anndata, which is not installed; pip install sia-denoising[h5ad]"
        ) from None
    held = anndata.read_h5ad(path)
    raw = held.layers.get("counts", held.X)
    if raw is None:
        raise _malformed(path, "no X and no layer named counts")
    return raw


def _mtx(path: Path) -> Any:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if not file.readline().startswith(b"%%MatrixMarket"):
            raise _malformed(path, "its first line does not begin with %%MatrixMarket")
    matrix = io.mmread(path)
    return matrix.T if _genes_are_rows(path, matrix.shape) else matrix


def _genes_are_rows(path: Path, shape: tuple[int, int]) -> bool:
    for name in ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz"):
        beside = path.with_name(name)
        if beside.is_file():
            with gzip.open(beside) if beside.suffix == ".gz" else beside.open("rb") as file:
                genes = sum(1 for line in file if line.strip())
            if genes not in shape:
                raise _malformed(
                    path, f"{shape[0]} rows and {shape[1]} columns, but {name} beside it has {genes} lines"
                )
            return genes == shape[0]
    return shape[0] >= shape[1]


def _counts(found: Any, path: Path) -> sparse.csr_array:
    """The matrix as int32 CSR; UsageError where its values are not counts."""
    if not (sparse.issparse(found) or isinstance(found, np.ndarray)) or found.dtype.kind not in "biuf":
        raise _malformed(path, "no matrix of numbers")
    matrix = sparse.csr_array(found)
    matrix.sum_duplicates()
    values = matrix.data
    if not np.isfinite(values).all():
        raise _malformed(path, "values that are not finite")
    if (values < 0).any():
        raise _malformed(path, "negative values; raw counts are wanted, not scaled or centred ones")
    if (values != np.floor(values)).any():
        raise _malformed(path, "values that are not whole; raw counts are wanted, not normalised ones")
    if values.size and values.max() > 2**31 - 1:
        raise _malformed(path, "counts above 2^31 - 1")
    made = sparse.csr_array(matrix, dtype=np.int32)
    made.eliminate_zeros()
    # A cell without a count says nothing, and a method that divides by depth would stumble over it.
    made = made[np.flatnonzero(made.sum(axis=1))]
    made = made[:, np.flatnonzero(made.sum(axis=0))]
    if made.shape[0] < LEAST_CELLS or made.shape[1] < LEAST_GENES:
        raise _malformed(
            path,
            f"{made.shape[0]} cells and {made.shape[1]} genes with counts; "
            f"at least {LEAST_CELLS} and {LEAST_GENES} are needed",
        )
    return made


def _malformed(path: Path, what: str) -> UsageError:
    return UsageError(f"denoising: {path} holds {what}")
