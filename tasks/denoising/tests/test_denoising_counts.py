"""Files of counts: the three formats, and what is said of malformed ones."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io, sparse

from sia_core.errors import UsageError
from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator

HEADER = b"%%MatrixMarket matrix coordinate integer general\n"

COUNTS = Generator(cells=60, genes=100, depth=2_000).draw(0).counts
COUNTS = COUNTS[:, np.flatnonzero(COUNTS.sum(axis=0))]


def same(path: Path) -> bool:
    found = read_counts(path)
    return found.dtype == np.int32 and found.shape == COUNTS.shape and (found != COUNTS).nnz == 0


def test_npz_as_scipy_writes_it_or_as_arrays(tmp_path: Path) -> None:
    sparse.save_npz(tmp_path / "csr.npz", COUNTS)
    sparse.save_npz(tmp_path / "csc.npz", COUNTS.tocsc().astype(float))
    np.savez(tmp_path / "dense.npz", counts=COUNTS.toarray(), genes=np.array(["g"] * COUNTS.shape[1]))
    parts = {"data": COUNTS.data, "indices": COUNTS.indices, "indptr": COUNTS.indptr, "shape": COUNTS.shape}
    np.savez(tmp_path / "parts.npz", **parts)
    assert all(same(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("beside", ["features.tsv", "genes.tsv.gz", ""])
def test_mtx_of_10x_has_genes_as_rows(tmp_path: Path, beside: str) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS.T, field="integer")
    lines = b"ENSG\tname\n" * COUNTS.shape[1]
    if beside:
        (tmp_path / beside).write_bytes(gzip.compress(lines) if beside.endswith("gz") else lines)
    assert same(tmp_path / "matrix.mtx")
    packed = tmp_path / "packed.mtx.gz"
    packed.write_bytes(gzip.compress((tmp_path / "matrix.mtx").read_bytes()))
    assert same(packed)


def test_mtx_whose_cells_are_rows_is_told_by_the_list_of_genes(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS, field="integer")
    (tmp_path / "genes.tsv").write_text("g\n" * COUNTS.shape[1])
    assert same(tmp_path / "matrix.mtx")
    (tmp_path / "genes.tsv").write_text("g\n" * 7)
    with pytest.raises(UsageError, match=r"genes\.tsv beside it has 7 lines"):
        read_counts(tmp_path / "matrix.mtx")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["", "counts"])
def test_h5ad_gives_the_layer_of_counts_before_x(tmp_path: Path, layer: str) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed: sia-denoising[h5ad]")
    pandas = pytest.importorskip("pandas")
    # Names are given as plain objects: the default index is of a type that not every anndata writes.
    frames = [
        pandas.DataFrame(index=pandas.Index([f"n{n}" for n in range(size)], dtype=object)) for size in COUNTS.shape
    ]
    counts, scaled = sparse.csr_matrix(COUNTS), sparse.csr_matrix(COUNTS, dtype=float) * 0.1
    layers = {layer: counts} if layer else {}
    held = anndata.AnnData(X=scaled if layer else counts, layers=layers, obs=frames[0], var=frames[1])
    held.write_h5ad(tmp_path / "x.h5ad")
    assert same(tmp_path / "x.h5ad")


def test_without_anndata_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(UsageError, match=r"pip install sia-denoising\[h5ad\]"):
        read_counts(tmp_path / "some.h5ad")


def test_empty_cells_and_genes_are_left_out(tmp_path: Path) -> None:
    padded = np.zeros((COUNTS.shape[0] + 5, COUNTS.shape[1] + 3), dtype=int)
    padded[2 : 2 + COUNTS.shape[0], 1 : 1 + COUNTS.shape[1]] = COUNTS.toarray()
    np.savez(tmp_path / "padded.npz", padded)
    assert same(tmp_path / "padded.npz")


def broken_indices(path: Path) -> None:
    indices = COUNTS.indices.copy()
    indices[5] = 10_000
    np.savez(path, data=COUNTS.data, indices=indices, indptr=COUNTS.indptr, shape=COUNTS.shape)


def changed(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        dense = COUNTS.toarray().astype(float)
        dense[3, 4] = value
        np.savez(path, dense)

    return write


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("x.npz", changed(0.5), "not whole; raw counts are wanted"),
        ("x.npz", changed(-1), "negative"),
        ("x.npz", changed(np.nan), "not finite"),
        ("x.npz", changed(1e12), "above 2"),
        ("x.npz", broken_indices, "cannot be read"),
        ("x.npz", lambda path: path.write_bytes(b"PK\x03\x04 no archive"), "cannot be read"),
        ("x.npz", lambda path: path.write_bytes(b""), "cannot be read"),
        ("x.npz", lambda path: np.savez(path, np.ones((3, 4), dtype=int)), "3 cells and 4 genes"),
        ("x.npz", lambda path: np.savez(path, np.array(["a"])), "neither data, indices"),
        ("x.npz", lambda path: np.savez(path, np.array([[{}]], dtype=object), allow_pickle=True), "cannot be read"),
        ("x.npz", lambda path: np.savez(path, np.array([["a"] * 50] * 50)), "no matrix of numbers"),
        ("x.mtx", lambda path: path.write_bytes(b"gene,cell\n1,2\n"), "does not begin with %%MatrixMarket"),
        ("x.mtx", lambda path: path.write_bytes(HEADER + b"9 9 4\n1 1 1\n"), "cannot be read"),
        ("x.mtx.gz", lambda path: path.write_bytes(b"plain"), "cannot be read"),
        ("x.h5ad", lambda path: path.write_bytes(b"plain"), "cannot be read"),
        ("x.csv", lambda path: path.write_bytes(b"1,2"), "is none of .npz, .h5ad"),
        ("missing.npz", lambda path: None, "No such file"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_malformed_files_end_with_what_is_wrong(
    tmp_path: Path, name: str, write: Callable[[Path], Any], said: str
) -> None:
    if name.endswith("h5ad"):
        pytest.importorskip("anndata", reason="anndata is not installed: sia-denoising[h5ad]")
    write(tmp_path / name)
    with pytest.raises(UsageError, match=said):
        read_counts(tmp_path / name)


def test_the_shared_sample_is_read(sample: Path) -> None:
    counts = read_counts(sample)
    assert counts.shape == (906, 14_561)  # the other 127 genes have no count
    assert counts.max() == 627
