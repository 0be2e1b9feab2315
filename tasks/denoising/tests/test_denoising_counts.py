"""Files of counts: their formats, what malformed ones are told, and files that attack their reader."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io, sparse

from sia_core.errors import UsageError
from sia_denoising import reader
from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator
from sia_denoising.reader import read
from sia_denoising.verifier import checked_file

HEADER = b"%%MatrixMarket matrix coordinate integer general\n"

COUNTS = Generator(cells=60, genes=100, depth=2_000).draw(0).counts
COUNTS = COUNTS[:, np.flatnonzero(COUNTS.sum(axis=0))]


def same(path: Path) -> bool:
    matrix = read_counts(path)
    return matrix.dtype == np.int32 and matrix.shape == COUNTS.shape and (matrix != COUNTS).nnz == 0


def test_npz_as_scipy_writes_it_or_as_arrays(tmp_path: Path) -> None:
    sparse.save_npz(tmp_path / "csr.npz", COUNTS)
    sparse.save_npz(tmp_path / "csc.npz", COUNTS.tocsc().astype(float))
    sparse.save_npz(tmp_path / "coo.npz", COUNTS.tocoo())
    np.savez(tmp_path / "dense.npz", counts=COUNTS.toarray(), genes=np.array(["g"] * COUNTS.shape[1]))
    parts = {"data": COUNTS.data, "indices": COUNTS.indices, "indptr": COUNTS.indptr, "shape": COUNTS.shape}
    np.savez(tmp_path / "parts.npz", **parts)
    assert all(same(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("kind", [">i4", ">f4", "<f2", "u1", "g"])
def test_dense_counts_may_be_numbers_of_any_kind_and_order_of_bytes(tmp_path: Path, kind: str) -> None:
    counts = np.minimum(COUNTS.toarray(), 255).astype(kind)
    np.savez(tmp_path / "x.npz", counts)
    assert (read(tmp_path / "x.npz") != sparse.csr_array(counts.astype(np.int32))).nnz == 0


def test_endings_in_capitals_are_endings(tmp_path: Path) -> None:
    sparse.save_npz(tmp_path / "x.npz", COUNTS)
    assert same((tmp_path / "x.npz").rename(tmp_path / "X.NPZ"))


@pytest.mark.parametrize("beside", ["features.tsv", "genes.tsv.gz", "barcodes.tsv"])
def test_mtx_of_10x_has_genes_as_rows(tmp_path: Path, beside: str) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS.T, field="integer")
    lines = b"ENSG\tname\n" * COUNTS.shape[0 if "barcodes" in beside else 1]
    (tmp_path / beside).write_bytes(gzip.compress(lines) if beside.endswith("gz") else lines)
    assert same(tmp_path / "matrix.mtx")
    packed = tmp_path / "packed.mtx.gz"
    packed.write_bytes(gzip.compress((tmp_path / "matrix.mtx").read_bytes()))
    assert same(packed)


@pytest.mark.parametrize(
    ("matrix", "genes"),
    [
        ("GSM1_matrix.mtx", "GSM1_genes.tsv"),
        ("GSM1_counts.mtx", "GSM1_genes.tsv"),
        ("GSM1.counts.mtx", "GSM1.features.txt"),
        ("cells_x_genes.mtx", "cells_x_genes.genes.txt"),
    ],
)
def test_the_list_of_a_sample_says_which_side_genes_are(tmp_path: Path, matrix: str, genes: str) -> None:
    io.mmwrite(tmp_path / matrix, COUNTS.T, field="integer")
    (tmp_path / genes).write_text("g\n" * COUNTS.shape[1])
    assert same(tmp_path / matrix)


@pytest.mark.parametrize(("name", "pack"), [("matrix.mtx", True), ("matrix.mtx.gz", False)])
def test_a_matrix_is_unpacked_by_its_content_and_not_by_its_name(tmp_path: Path, name: str, pack: bool) -> None:
    io.mmwrite(tmp_path / "x.mtx", COUNTS.T, field="integer")
    content = (tmp_path / "x.mtx").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if pack else content)
    (tmp_path / "genes.tsv").write_text("g\n" * COUNTS.shape[1])
    assert same(tmp_path / name)


def test_mtx_whose_cells_are_rows_is_told_by_the_list_of_genes(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS, field="integer")
    (tmp_path / "genes.tsv").write_text("g\n" * COUNTS.shape[1])
    assert same(tmp_path / "matrix.mtx")
    (tmp_path / "genes.tsv").write_text("g\n" * 7)
    with pytest.raises(UsageError, match=r"genes\.tsv beside it has 7 lines"):
        read_counts(tmp_path / "matrix.mtx")


PANEL = COUNTS[:, :30]
"""Fewer genes than cells, as in a targeted panel."""


@pytest.mark.parametrize(
    ("matrix", "beside"),
    [
        ("GSM1_panel_matrix.mtx", "GSM1_panel_features.tsv"),
        ("GSM1.matrix.mtx", "GSM1.genes.tsv.gz"),
        ("matrix_P01.mtx", "features_P01.tsv"),
        ("tumour.mtx", "tumour_features.tsv"),
        ("tumour.mtx", "tumour.genes.tsv"),
        ("GSM1_matrix.mtx", "features.tsv"),
        ("GSM1_matrix.mtx", "GSM1_barcodes.tsv.gz"),
    ],
)
def test_a_panel_of_few_genes_is_not_transposed_whatever_prefix_its_files_have(
    tmp_path: Path, matrix: str, beside: str
) -> None:
    io.mmwrite(tmp_path / matrix, PANEL.T, field="integer")
    lines = b"ENSG\tname\tGene Expression\n" * PANEL.shape[0 if "barcodes" in beside else 1]
    (tmp_path / beside).write_bytes(gzip.compress(lines) if beside.endswith("gz") else lines)
    counts = read(tmp_path / matrix)
    assert counts.shape == PANEL.shape
    assert (counts != PANEL).nnz == 0


def test_a_list_that_was_unpacked_under_its_packed_name_is_read(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", PANEL.T, field="integer")
    (tmp_path / "features.tsv.gz").write_bytes(b"ENSG\n" * PANEL.shape[1])
    assert read(tmp_path / "matrix.mtx").shape == PANEL.shape


def test_mtx_without_a_list_is_refused_as_its_sides_cannot_be_told_apart(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS.T, field="integer")
    with pytest.raises(UsageError, match=r"rows are genes or cells: put features\.tsv"):
        read_counts(tmp_path / "matrix.mtx")


ANTIBODIES = 5


def test_antibody_rows_of_10x_are_no_genes(tmp_path: Path) -> None:
    io.mmwrite(tmp_path / "matrix.mtx", COUNTS.T, field="integer")
    types = ["Gene Expression"] * (COUNTS.shape[1] - ANTIBODIES) + ["Antibody Capture"] * ANTIBODIES
    (tmp_path / "features.tsv").write_text("".join(f"E{n}\tG{n}\t{each}\n" for n, each in enumerate(types)))
    counts = read(tmp_path / "matrix.mtx")
    assert (counts != COUNTS[:, :-ANTIBODIES]).nnz == 0
    (tmp_path / "features.tsv").write_text("E\tG\tPeaks\n" * COUNTS.shape[1])
    with pytest.raises(UsageError, match="no feature of type 'Gene Expression', only Peaks"):
        read_counts(tmp_path / "matrix.mtx")


def h5ad(path: Path, change: Callable[[Any], Any] = lambda file: None, counts: Any = COUNTS) -> Path:
    """A file as anndata writes it, with counts as X, changed before it is closed."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: sia-denoising[h5ad]")
    with h5py.File(path, "w") as file:
        put(file, "X", counts)
        change(file)
    return path


def put(file: Any, place: str, matrix: Any, layout: str = "csr") -> None:
    if not sparse.issparse(matrix):
        file[place] = matrix
        return
    group = file.create_group(place)
    group.attrs.update({"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0", "shape": matrix.shape})
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(matrix.asformat(layout), name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["", "counts"])
def test_h5ad_gives_the_layer_of_counts_before_x(tmp_path: Path, layer: str) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed: sia-denoising[test]")
    pandas = pytest.importorskip("pandas")
    # Names are given as plain objects: the default index is of a type that not every anndata writes.
    frames = [
        pandas.DataFrame(index=pandas.Index([f"n{n}" for n in range(size)], dtype=object)) for size in COUNTS.shape
    ]
    counts, scaled = sparse.csr_matrix(COUNTS), sparse.csr_matrix(COUNTS, dtype=float) * 0.1
    layers = {layer: counts} if layer else {}
    data = anndata.AnnData(X=scaled if layer else counts, layers=layers, obs=frames[0], var=frames[1])
    data.write_h5ad(tmp_path / "x.h5ad")
    assert same(tmp_path / "x.h5ad")


def test_h5ad_is_read_in_every_layout(tmp_path: Path) -> None:
    assert same(h5ad(tmp_path / "csr.h5ad"))
    assert same(h5ad(tmp_path / "dense.h5ad", counts=COUNTS.toarray().astype(float)))
    assert same(h5ad(tmp_path / "csc.h5ad", lambda file: (file.pop("X"), put(file, "X", COUNTS, "csc"))))


def test_elements_of_an_h5ad_that_nobody_needs_do_not_refuse_it(tmp_path: Path) -> None:
    def newer(file: Any) -> None:
        for place in ("uns/params", "obsm/X_pca", "obs/batch"):
            file[place] = 1
            file[place].attrs.update({"encoding-type": "a-newer-kind", "encoding-version": "9"})

    assert same(h5ad(tmp_path / "x.h5ad", newer))


@pytest.mark.parametrize("categorical", [True, False])
def test_antibody_columns_of_an_h5ad_are_no_genes(tmp_path: Path, categorical: bool) -> None:
    def types(file: Any) -> None:
        codes = np.zeros(COUNTS.shape[1], dtype=np.int8)
        codes[-ANTIBODIES:] = 1
        names = np.array([b"Gene Expression", b"Antibody Capture"])
        if categorical:
            file["var/feature_types/categories"], file["var/feature_types/codes"] = names, codes
        else:
            file["var/feature_types"] = names[codes]

    assert (read(h5ad(tmp_path / "x.h5ad", types)) != COUNTS[:, :-ANTIBODIES]).nnz == 0


@pytest.mark.parametrize("place", ["raw/X", "layers/spliced"])
def test_an_h5ad_whose_x_is_scaled_names_where_its_counts_are(tmp_path: Path, place: str) -> None:
    name = {"raw/X": r"raw\.X", "layers/spliced": r"layers\['spliced'\]"}[place]
    path = h5ad(tmp_path / "x.h5ad", lambda file: put(file, place, COUNTS), counts=np.log1p(COUNTS.toarray()))
    with pytest.raises(UsageError, match=f"X values that are not whole.*counts are in {name}: write them as X"):
        read_counts(path)


def test_without_h5py_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match="pip install h5py"):
        read_counts(tmp_path / "some.h5ad")


@pytest.mark.parametrize("layout", ["__categories", "nullable"])
def test_antibodies_are_found_as_older_and_newer_anndata_write_their_type(tmp_path: Path, layout: str) -> None:
    names, codes = np.array([b"Gene Expression", b"Antibody Capture"]), np.zeros(COUNTS.shape[1], dtype=np.int8)
    codes[-ANTIBODIES:] = 1

    def types(file: Any) -> None:
        if layout == "__categories":
            file["var/feature_types"], file["var/__categories/feature_types"] = codes, names
        else:
            file["var/feature_types/values"], file["var/feature_types/mask"] = names[codes], codes > 1

    assert (read(h5ad(tmp_path / "x.h5ad", types)) != COUNTS[:, :-ANTIBODIES]).nnz == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_h5ad_as_people_have_them_with_float_counts_repeated_genes_categories_and_raw(
    tmp_path: Path, layout: str
) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed: sia-denoising[test]")
    pandas = pytest.importorskip("pandas")
    cells, genes = COUNTS.shape
    matrix = COUNTS.astype(np.float32)
    obs = pandas.DataFrame(index=pandas.Index([f"c{n}" for n in range(cells)], dtype=object))
    # Categories are given as plain objects, as names are.
    of = pandas.Categorical.from_codes
    obs["batch"] = of(np.arange(cells) % 2, pandas.Index(["a", "b"], dtype=object))
    var = pandas.DataFrame(index=pandas.Index(["MT-1"] * 2 + [f"g{n}" for n in range(genes - 2)], dtype=object))
    var["genome"] = of(np.zeros(genes, dtype=int), pandas.Index(["GRCh38"], dtype=object))
    var["feature_types"] = of(np.zeros(genes, dtype=int), pandas.Index(["Gene Expression"], dtype=object))
    x = matrix.toarray() if layout == "dense" else getattr(sparse, f"{layout}_matrix")(matrix)
    data = anndata.AnnData(X=x, obs=obs, var=var)
    data.raw = data.copy()
    data.write_h5ad(tmp_path / "x.h5ad", compression="gzip")
    assert same(tmp_path / "x.h5ad")


def tenx(path: Path, groups: dict[str, Any], types: list[str] | None = None) -> Path:
    """A file as 10x writes it."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: sia-denoising[h5ad]")
    with h5py.File(path, "w") as file:
        for name, counts in groups.items():
            for part in ("data", "indices", "indptr"):
                file[f"{name}/{part}"] = getattr(counts, part)
            file[f"{name}/shape"], file[f"{name}/barcodes"] = counts.shape[::-1], [b"c"] * counts.shape[0]
            if types:
                file[f"{name}/features/feature_type"] = [each.encode() for each in types]
    return path


def test_h5_of_10x_in_both_versions(tmp_path: Path) -> None:
    genes = COUNTS.shape[1]
    types = ["Gene Expression"] * (genes - ANTIBODIES) + ["Antibody Capture"] * ANTIBODIES
    assert (read(tenx(tmp_path / "v3.h5", {"matrix": COUNTS}, types)) != COUNTS[:, :-ANTIBODIES]).nnz == 0
    assert same(tenx(tmp_path / "v2.h5", {"GRCh38": COUNTS}))


def test_h5_of_several_genomes_or_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="matrices of hg19 and mm10; write the genome that you want"):
        read_counts(tenx(tmp_path / "two.h5", {"hg19": COUNTS, "mm10": COUNTS}))
    with pytest.raises(UsageError, match="no matrix as 10x writes it"):
        read_counts(tenx(tmp_path / "none.h5", {}))


def folder(path: Path, version: int, counts: Any = COUNTS) -> Path:
    """A folder as 10x writes it: packed and with types since version 3, plain before."""
    path.mkdir(parents=True)
    lists = {
        "barcodes.tsv": "c-1\n" * counts.shape[0],
        "features.tsv" if version == 3 else "genes.tsv": "ENSG\tMT-1"
        + ("\tGene Expression\n" if version == 3 else "\n"),
    }
    lists[list(lists)[1]] *= counts.shape[1]
    io.mmwrite(path / "matrix.mtx", counts.T, field="integer")
    for name, text in lists.items():
        (path / name).write_text(text)
    if version == 3:
        for each in list(path.iterdir()):
            each.with_name(each.name + ".gz").write_bytes(gzip.compress(each.read_bytes()))
            each.unlink()
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_folder_of_10x_stands_for_its_matrix(tmp_path: Path, version: int) -> None:
    assert same(folder(tmp_path / "filtered", version))
    path = checked_file("--data", str(tmp_path / "filtered"))
    assert path is not None
    assert same(Path(path))


def test_a_folder_of_genomes_is_read_where_there_is_one_and_names_them_where_there_are_more(tmp_path: Path) -> None:
    folder(tmp_path / "genomes" / "hg19", 2)
    assert same(tmp_path / "genomes")
    folder(tmp_path / "genomes" / "mm10", 2)
    with pytest.raises(UsageError, match=r"several matrices, hg19/matrix\.mtx, mm10/matrix\.mtx; name one of them"):
        read_counts(tmp_path / "genomes")
    with pytest.raises(UsageError, match=r"--data .* holds several matrices"):
        checked_file("--data", str(tmp_path / "genomes"))


def test_a_folder_with_the_matrix_of_one_sample_stands_for_it(tmp_path: Path) -> None:
    for each in sorted(folder(tmp_path / "x", 3).iterdir()):
        each.rename(each.with_name(f"GSM1_{each.name}"))
    assert same(tmp_path / "x")
    (tmp_path / "x" / "GSM2_matrix.mtx.gz").touch()
    with pytest.raises(UsageError, match=r"several matrices, GSM1_matrix\.mtx\.gz, GSM2_matrix\.mtx\.gz; name one"):
        read_counts(tmp_path / "x")


def test_a_folder_without_a_matrix_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder without matrix\.mtx\.gz or matrix\.mtx; name a file"):
        read_counts(tmp_path)


INDEX_FAULTS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("indices", lambda values: np.where(np.arange(len(values)) == 5, 10_000, values), "indices from 0 to 10000"),
    ("indices", lambda values: np.where(np.arange(len(values)) == 5, -1, values), "indices from -1"),
    ("indices", lambda values: values.astype(float), "no list of whole numbers"),
    ("indices", lambda values: values[:-1], "do not belong together"),
    (
        "indptr",
        lambda values: np.where(np.arange(len(values)) > 9, values - 2**30 * 2.0, values).astype("i4"),
        "from -21",
    ),
    ("indptr", lambda values: np.where(np.arange(len(values)) == 9, values[-1], values), "does not rise"),
    # scipy's own check passes over an indptr that ends at zero.
    ("indptr", lambda values: np.where(np.arange(len(values)) == len(values) - 1, 0, values), "does not rise"),
    ("indptr", lambda values: values[:-1], "do not belong together"),
    ("indptr", lambda values: values + 1, "indptr from 1"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), INDEX_FAULTS)
@pytest.mark.parametrize("ending", ["npz", "h5ad"])
def test_an_index_that_leaves_its_matrix_is_refused_before_it_is_followed(
    tmp_path: Path, ending: str, name: str, spoil: Callable[[Any], Any], message: str
) -> None:
    parts = {"data": COUNTS.data, "indices": COUNTS.indices, "indptr": COUNTS.indptr}
    parts[name] = spoil(parts[name])

    def replaced(file: Any) -> None:
        del file[f"X/{name}"]
        file[f"X/{name}"] = parts[name]

    path = tmp_path / f"x.{ending}"
    if ending == "npz":
        np.savez(path, shape=np.array(COUNTS.shape), **parts)
    else:
        h5ad(path, replaced)
    with pytest.raises(UsageError, match=message):
        read_counts(path)


def test_a_shape_that_its_matrix_does_not_have_is_refused(tmp_path: Path) -> None:
    for shape in ([60], [-60, 100], [60, 100, 1], [60, 2**62]):
        np.savez(tmp_path / "x.npz", data=[1], indices=[0], indptr=[0, 1], shape=np.array(shape))
        with pytest.raises(UsageError, match=r"of the shape|declares arrays"):
            read_counts(tmp_path / "x.npz")


def test_a_file_is_refused_by_the_size_that_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_BYTES", 1_000_000)
    np.savez_compressed(tmp_path / "dense.npz", np.zeros((1_000, 1_000)))
    np.savez_compressed(tmp_path / "many.npz", **{f"a{n}": np.zeros(50_000) for n in range(5)})
    sparse.save_npz(tmp_path / "wide.npz", sparse.csr_array((1, 10**9)))
    (tmp_path / "x.mtx").write_bytes(HEADER + b"9 9 1000000000000\n1 1 1\n")
    (tmp_path / "features.tsv").write_text("g\n" * 9)
    bombs = [tmp_path / name for name in ("dense.npz", "many.npz", "wide.npz", "x.mtx")]
    bombs.append(h5ad(tmp_path / "x.h5ad", lambda file: file.create_dataset("layers/counts", (10**6, 10**6), "f4")))
    for path in bombs:
        with pytest.raises(UsageError, match=r"declares arrays of .* GiB, more than half"):
            read_counts(path)


def test_an_h5ad_cannot_show_arrays_of_other_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: sia-denoising[h5ad]")
    h5ad(tmp_path / "secret.h5ad", counts=COUNTS.toarray())

    def link(file: Any) -> None:
        del file["X"]
        file["X"] = h5py.ExternalLink("secret.h5ad", "/X")

    def by_another_link(file: Any) -> None:
        del file["X"]
        file["elsewhere"] = h5py.ExternalLink("secret.h5ad", "/")
        file["X"] = h5py.SoftLink("/elsewhere/X")

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout(COUNTS.shape, "i8")
        layout[:] = h5py.VirtualSource("secret.h5ad", "X", COUNTS.shape)
        file.create_virtual_dataset("layers/counts", layout)

    def external(file: Any) -> None:
        file.create_dataset("layers/counts", (60, 100), "u1", external=str(tmp_path / "secret.h5ad"))

    for change in (link, by_another_link, virtual, external):
        with pytest.raises(UsageError, match="lies in another file"):
            read_counts(h5ad(tmp_path / "x.h5ad", change))


LINES = b"9 9 1\n1 1 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + LINES + b"\0\0", "bytes of zero"),
        (HEADER + b"9 9 1\n" + b" " * 70_000 + b"1 1 1\n", "a line of more than 65,536 bytes"),
        (HEADER + b"% a comment\n" * 7_000 + LINES, "no size of a matrix in its first 65,536 bytes"),
        (HEADER + b"\n" + b"%" * 70_000, "no size of a matrix"),
    ],
)
@pytest.mark.parametrize("ending", ["mtx", "mtx.gz"])
def test_text_that_scipy_would_crash_on_or_hold_without_end_is_refused(
    tmp_path: Path, ending: str, text: bytes, message: str
) -> None:
    (tmp_path / "features.tsv").write_text("g\n" * 9)
    (tmp_path / f"matrix.{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    with pytest.raises(UsageError, match=message):
        read_counts(tmp_path)


def test_a_last_line_that_is_not_ended_is_read(tmp_path: Path) -> None:
    (tmp_path / "features.tsv").write_text("g\n" * 9)
    for end in (b"", b" ", b"\r", b" 7"):
        (tmp_path / "matrix.mtx").write_bytes(HEADER + b"9 9 1\n1 1 5" + end)
        assert read(tmp_path).data.tolist() == [5]


def test_of_a_list_that_unpacks_to_much_little_is_held(tmp_path: Path) -> None:
    (tmp_path / "x.mtx").write_bytes(HEADER + b"400 9 1\n1 1 1\n")
    lines = "".join(f"g\tg\t{n}{'x' * 60_000}\n" for n in range(399)) + "g\tg\tCustom\n"
    (tmp_path / "features.tsv.gz").write_bytes(gzip.compress(lines.encode(), 1))
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"no feature of type 'Gene Expression', only 0x+, 100x+, .*, 395 more"):
        read_counts(tmp_path / "x.mtx")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5_000_000


def test_arrays_are_refused_by_what_they_take_together_and_as_sparse_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_10x = tenx(tmp_path / "x.h5", {"matrix": COUNTS})
    ones = tmp_path / "ones.npz"
    np.savez_compressed(ones, np.ones((120, 120), dtype=np.int8))

    def one_large_chunk(file: Any) -> None:
        del file["X/data"]
        file.create_dataset("X/data", data=COUNTS.data, maxshape=(None,), chunks=(10**6,), compression="gzip")

    monkeypatch.setattr(reader, "MOST_BYTES", 7 * COUNTS.nnz)
    for path in (of_10x, h5ad(tmp_path / "x.h5ad", one_large_chunk), ones):
        with pytest.raises(UsageError, match=r"declares arrays of .* GiB, more than half"):
            read_counts(path)


def test_texts_in_the_place_of_numbers_and_more_types_than_genes_are_refused_unread(tmp_path: Path) -> None:
    def types(file: Any) -> None:
        file["var/feature_types"] = ["Custom"] * (COUNTS.shape[1] + 1)

    def values(file: Any) -> None:
        del file["X/data"]
        file["X/data"] = ["1"] * COUNTS.nnz

    def shape(file: Any) -> None:
        file["X"].attrs["shape"] = np.zeros(5_000)

    with pytest.raises(UsageError, match=r"genes, but an array of the shape \(\d+,\) as var/feature_types"):
        read_counts(h5ad(tmp_path / "x.h5ad", types))
    with pytest.raises(UsageError, match="no matrix of numbers: data is none"):
        read_counts(h5ad(tmp_path / "x.h5ad", values))
    with pytest.raises(UsageError, match="of more values than two: shape"):
        read_counts(h5ad(tmp_path / "x.h5ad", shape))


def test_counts_of_one_place_are_added_up_even_where_a_byte_holds_each(tmp_path: Path) -> None:
    parts = {"data": np.full(3, 200, dtype=np.uint8), "shape": np.array([1, 2])}
    np.savez(tmp_path / "csr.npz", indices=[0, 0, 0], indptr=[0, 3], **parts)
    np.savez(tmp_path / "coo.npz", row=[0, 0, 0], col=[0, 0, 0], format=b"coo", **parts)
    assert read(tmp_path / "csr.npz").data.tolist() == read(tmp_path / "coo.npz").data.tolist() == [600]


def test_names_of_a_file_cannot_write_on_the_terminal_and_those_that_are_no_text_are_passed_over(
    tmp_path: Path,
) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: sia-denoising[h5ad]")
    path = tenx(tmp_path / "x.h5", {"matrix": COUNTS})
    with h5py.File(path, "a") as file:
        file[b"\xff\xfe/a"] = 1
    assert same(path)
    with pytest.raises(UsageError, match=r"matrices of \\x1b\[31mred and matrix"):
        read_counts(tenx(path, {"matrix": COUNTS, "\x1b[31mred": COUNTS}))


def test_what_is_no_file_or_has_no_possible_name_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.h5")
    with pytest.raises(UsageError, match=r"x\.h5 is not a file"):
        read_counts(tmp_path / "x.h5")
    with pytest.raises(UsageError, match="File name too long"):
        checked_file("--data", str(tmp_path / ("x" * 300 + ".h5")))


def packed_badly(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", bytes(1_000))
    whole = bytearray(path.read_bytes())
    whole[50:70] = bytes(20)
    path.write_bytes(whole)


def headed(text: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)

    return write


def test_arrays_that_nobody_needs_do_not_refuse_an_npz(tmp_path: Path) -> None:
    genes = np.array([f"g{n}" for n in range(COUNTS.shape[1])], dtype=object)
    np.savez(tmp_path / "x.npz", counts=COUNTS.toarray(), genes=genes)
    assert same(tmp_path / "x.npz")


def test_empty_cells_and_genes_are_left_out(tmp_path: Path) -> None:
    padded = np.zeros((COUNTS.shape[0] + 5, COUNTS.shape[1] + 3), dtype=int)
    padded[2 : 2 + COUNTS.shape[0], 1 : 1 + COUNTS.shape[1]] = COUNTS.toarray()
    np.savez(tmp_path / "padded.npz", padded)
    assert same(tmp_path / "padded.npz")


def changed(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        dense = COUNTS.toarray().astype(float)
        dense[3, 4] = value
        np.savez(path, dense)

    return write


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npz", changed(0.5), "not whole; raw counts are wanted, not normalised or log-transformed"),
        ("x.npz", changed(-1), "negative"),
        ("x.npz", changed(np.nan), "not finite"),
        ("x.npz", changed(1e12), "above 2"),
        ("x.npz", lambda path: path.write_bytes(b"PK\x03\x04 no archive"), "cannot be read"),
        ("x.npz", lambda path: path.write_bytes(b""), "cannot be read"),
        ("x.npz", lambda path: np.savez(path, np.ones((3, 4), dtype=int)), "3 cells and 4 genes"),
        ("x.npz", lambda path: np.savez(path, np.array(["a"])), "neither data, indices"),
        ("x.npz", lambda path: np.savez(path, np.array([[{}]], dtype=object), allow_pickle=True), "neither data"),
        ("x.npz", lambda path: np.savez(path, np.array([["a"] * 50] * 50)), "neither data, indices"),
        ("x.npz", packed_badly, "cannot be read"),
        ("x.npz", headed(b"{'descr': '<f8', ("), "cannot be read"),
        ("x.npz", headed(b"\tif x:\n  y\n z"), "cannot be read"),
        ("x.mtx", lambda path: path.write_bytes(b"gene,cell\n1,2\n"), "does not begin with %%MatrixMarket"),
        ("x.mtx", lambda path: path.write_bytes(HEADER + b"9 9 4\n1 1 1\n"), "cannot be read"),
        ("x.mtx.gz", lambda path: path.write_bytes(b"plain"), "no matrix: its first line"),
        ("x.h5ad", lambda path: path.write_bytes(b"plain"), "cannot be read"),
        ("x.csv", lambda path: path.write_bytes(b"1,2"), "is none of .npz, .h5ad"),
        ("missing.npz", lambda path: None, "No such file"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_malformed_files_end_with_what_is_wrong(
    tmp_path: Path, name: str, write: Callable[[Path], Any], message: str
) -> None:
    if name.endswith("h5ad"):
        pytest.importorskip("h5py", reason="h5py is not installed: sia-denoising[h5ad]")
    (tmp_path / "features.tsv").write_text("g\n" * 9)
    write(tmp_path / name)
    with pytest.raises(UsageError, match=message):
        read_counts(tmp_path / name)


def test_the_shared_sample_is_read(sample: Path) -> None:
    counts = read_counts(sample)
    assert counts.shape == (906, 14_561)  # the other 127 genes have no count
    assert counts.max() == 627
