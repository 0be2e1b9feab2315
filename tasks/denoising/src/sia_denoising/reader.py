"""Reads raw counts out of the files that people have: ``.npz``, ``.h5ad``, and what 10x writes.

Needs numpy and scipy, and h5py for ``.h5ad`` and ``.h5``. An exported denoiser carries this file along, so it
imports nothing of SIA. A file is hostile until it is checked: indices are compared with the shape
before scipy's compiled code follows them, and sizes with the memory before anything is allocated.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io, sparse

ENDINGS = (".npz", ".h5ad", ".h5", ".mtx", ".mtx.gz")
MATRICES = ("matrix.mtx.gz", "matrix.mtx")

MOST_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
"""Arrays larger than half of the machine's memory are refused by what they declare."""

SIDE = 200
"""Bytes that a row or column takes at the most: its places in an index, and its type."""

LONGEST_LINE = 65_536
"""Bytes of a line in a matrix, or in a list of genes or barcodes, and of what is read before a matrix begins."""

LONGEST_TYPE = 100
"""Characters of a feature's type."""

AT_ONCE = 64
"""Texts that are read from HDF5 at once: each of them may point at the same long one."""

GENES = "Gene Expression"
OTHER_FEATURES = frozenset(
    ["Antibody Capture", "CRISPR Guide Capture", "Multiplexing Capture", "Antigen Capture", "Custom", "Peaks"]
)
"""Types of 10x features: rows of the second kind are no genes."""


class NotCounts(ValueError):
    """The file holds no counts, or cannot be read; the message says why, and is fit for a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in message))


def read(path: Path) -> sparse.csr_array:
    """The counts in a file, cells x genes, as int32; :class:`NotCounts` where it does not hold any.

    A ``.npz`` is what ``scipy.sparse.save_npz`` writes, holds ``data``, ``indices``, ``indptr`` and
    ``shape`` of a CSR matrix, or one dense array. A ``.h5ad`` gives its layer ``counts``, else ``X``.
    A ``.mtx`` wants the list of genes or barcodes that 10x puts beside it, which tells its sides apart;
    the folder that 10x writes stands for the matrix in it. A ``.h5`` is what 10x writes.
    """
    path = located(path)
    readers = {".npz": _npz, ".h5ad": _h5ad, ".h5": _h5, ".mtx": _mtx, ".gz": _mtx}
    if not path.name.lower().endswith(ENDINGS):
        raise NotCounts(f"{path} is none of {', '.join(ENDINGS)}; convert it to one of them")
    try:
        if path.exists() and not path.is_file():
            raise NotCounts(f"{path} is not a file; name one of {', '.join(ENDINGS)}")
        return _counts(readers[path.suffix.lower()](path), path)
    except NotCounts:
        raise
    except MemoryError:
        raise NotCounts(f"{path} does not fit into memory; take fewer cells of it") from None
    except Exception as error:  # whatever a damaged file brings about in zipfile, numpy, scipy or h5py
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotCounts(f"{path} cannot be read: {reason}; check the file, or write it anew") from None


def located(path: Path) -> Path:
    """The file that a path stands for: a folder of 10x for the matrix in it, or in the folder of its one genome."""
    try:
        if not path.is_dir():
            return path
        inside = sorted(each for each in path.iterdir() if each.is_dir())
        groups = [[matrix for folder in folders for matrix in _matrices_in(folder)] for folders in ([path], inside)]
    except OSError as error:
        raise NotCounts(f"{path} cannot be read: {error.strerror}; check its name, and who may read it") from None
    for matrices in groups:
        if len(matrices) > 1:
            names = _several([str(matrix.relative_to(path)) for matrix in matrices])
            raise NotCounts(f"{path} holds several matrices, {names}; name one of them")
        if matrices:
            return matrices[0]
    raise NotCounts(
        f"{path} is a folder without {' or '.join(MATRICES)}; name a file of counts, or the folder that 10x writes"
    )


def _matrices_in(folder: Path) -> list[Path]:
    """The matrix of a folder by its usual name, else all that have it after a sample's."""
    named = [folder / name for name in MATRICES if (folder / name).is_file()]
    return named[:1] or sorted(each for each in folder.iterdir() if each.name.endswith(MATRICES))


def _counts(matrix: Any, path: Path) -> sparse.csr_array:
    """A matrix as int32 CSR, once its indices are inside of it and its values are counts."""
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)) or matrix.ndim != 2:
        raise _malformed(path, "no matrix")
    if matrix.dtype.kind not in "biuf":
        raise _malformed(path, "no matrix of numbers")
    if fault := _fault(_values(matrix)):
        raise _malformed(path, fault)
    if isinstance(matrix, np.ndarray):
        _bounded(path, 16 * int(np.count_nonzero(matrix)))
        # scipy takes no half floats, and no other order of bytes than the machine's.
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else matrix.dtype.newbyteorder("="), copy=False)
    # Counts of the same place are added up, which one byte does not hold.
    rows = sparse.csr_array(matrix.astype(np.int64) if sparse.issparse(matrix) else matrix)
    rows.sum_duplicates()
    if fault := _fault(rows.data):
        raise _malformed(path, fault)
    counts = sparse.csr_array(rows, dtype=np.int32)
    counts.eliminate_zeros()
    return counts


_COMPRESSED = {"csr": sparse.csr_array, "csc": sparse.csc_array}


def _compressed(layout: str, data: Any, indices: Any, indptr: Any, shape: Any, path: Path) -> Any:
    """A CSR or CSC matrix. scipy follows indices unchecked, and its check passes over an ``indptr`` that ends at 0."""
    rows, columns = _sides(shape, path)
    major, minor = (rows, columns) if layout == "csr" else (columns, rows)
    if data.shape != indices.shape or indptr.shape != (major + 1,):
        raise _malformed(path, "data, indices and indptr of lengths that do not belong together")
    _index("indices", indices, minor, path)
    _index("indptr", indptr, len(indices) + 1, path)
    if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        raise _malformed(path, "an indptr that does not rise from 0 to the number of values")
    return _COMPRESSED[layout]((data, indices, indptr), shape=(rows, columns))


def _coordinates(data: Any, rows: Any, columns: Any, shape: Any, path: Path) -> Any:
    sides = _sides(shape, path)
    _index("row", rows, sides[0], path)
    _index("col", columns, sides[1], path)
    return sparse.coo_array((data, (rows, columns)), shape=sides)


def _sides(shape: Any, path: Path) -> tuple[int, int]:
    if np.size(shape) != 2:
        raise _malformed(path, f"a matrix of the shape of {np.size(shape)} sides")
    sides = tuple(int(side) for side in shape)
    if min(sides) < 0:
        raise _malformed(path, f"a matrix of the shape {sides}")
    _bounded(path, SIDE * sum(sides))
    return sides[0], sides[1]


def _index(name: str, values: Any, end: int, path: Path) -> None:
    """Refuses an index that is no list of whole numbers from 0 to below ``end``."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise _malformed(path, f"{name} that are no list of whole numbers")
    if values.size and not 0 <= values.min() <= values.max() < end:
        raise _malformed(path, f"{name} from {values.min()} to {values.max()}, where 0 to {end - 1} lie inside")


def _values(matrix: Any) -> Any:
    return matrix.data if sparse.issparse(matrix) else matrix


def _fault(values: Any) -> str | None:
    """The reason why values are no counts."""
    if not np.isfinite(values).all():
        return "values that are not finite"
    if (values < 0).any():
        return "negative values; raw counts are wanted, not scaled or centred ones"
    if values.dtype.kind == "f" and (values != np.floor(values)).any():
        return "values that are not whole; raw counts are wanted, not normalised or log-transformed ones"
    if values.size and float(values.max()) > 2**31 - 1:
        return "counts above 2^31 - 1"
    return None


def _bounded(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise NotCounts(
            f"{path} declares arrays of {size / 2**30:,.1f} GiB, more than half of this machine's memory; "
            "take fewer cells of it"
        )


def _several(names: Iterable[str], between: str = ", ") -> str:
    """Names for a message, which holds a few of them."""
    some = [name[:LONGEST_TYPE] for name in names]
    return between.join(some[:5]) + (f"{between}{len(some) - 5} more" if len(some) > 5 else "")


def _malformed(path: Path, fault: str) -> NotCounts:
    return NotCounts(f"{path} holds {fault}")


# --- .npz -------------------------------------------------------------------------


def _npz(path: Path) -> Any:
    arrays = _headers(path)
    with np.load(path, allow_pickle=False) as archive:
        layout = _text(archive["format"].item()) if "format" in arrays else "csr"
        if layout in _COMPRESSED and {"data", "indices", "indptr", "shape"} <= arrays.keys():
            return _compressed(layout, archive["data"], archive["indices"], archive["indptr"], archive["shape"], path)
        if layout == "coo" and {"data", "row", "col", "shape"} <= arrays.keys():
            return _coordinates(archive["data"], archive["row"], archive["col"], archive["shape"], path)
        if "format" in arrays:
            raise _malformed(path, f"a sparse matrix in the format {layout!r}; save it as CSR")
        dense = [name for name, (sides, kind) in arrays.items() if sides == 2 and kind in "biuf"]
        if len(dense) != 1:
            raise _malformed(path, "neither data, indices, indptr and shape of a CSR matrix nor one dense matrix")
        return archive[dense[0]]


def _headers(path: Path) -> dict[str, tuple[int, str]]:
    """Dimensions and kind of each array, by name, from headers alone. Refuses what unpacks to more than the bound."""
    arrays: dict[str, tuple[int, str]] = {}
    with zipfile.ZipFile(path) as archive:
        _bounded(path, sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    continue
                shape, _, dtype = _HEADERS[version](file)
            _bounded(path, dtype.itemsize * math.prod(shape))
            arrays[member.filename.removesuffix(".npy")] = len(shape), dtype.kind
    return arrays


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


# --- .h5ad and .h5 ------------------------------------------------------------------


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise NotCounts(f"{path} needs h5py, which is not installed; pip install h5py") from None
    return h5py.File(path)


def _h5(path: Path) -> Any:
    """The matrix of a 10x file: in the group ``matrix``, or before version 3 in a group for each genome."""
    with _opened(path) as file:
        parts = {"data", "indices", "indptr", "shape"}
        groups = [name for name in _texts_alone(file) if parts <= set(_names(file, name, path))]
        if not groups:
            raise _malformed(path, "no matrix as 10x writes it")
        if len(groups) > 1:
            raise _malformed(path, f"matrices of {_several(groups, ' and ')}; write the genome that you want as .npz")
        group = groups[0]
        data, indices, indptr, shape = _arrays(file, group, sorted(parts), path)
        # It is called CSC with genes as rows, which is CSR with cells as rows.
        matrix = _compressed("csr", data, indices, indptr, np.ravel(shape)[::-1], path)
        kinds = "feature_type" in _names(file, f"{group}/features", path)
        types = _texts(file, f"{group}/features/feature_type", matrix.shape[1], path) if kinds else None
        return _genes_alone(matrix, types, path)


def _h5ad(path: Path) -> Any:
    """The layer ``counts``, else X. Of the rest only the types of the features are read."""
    with _opened(path) as file:
        names = {name: f"layers/{name}" for name in _names(file, "layers", path)}
        place = names.get("counts", "X")
        if not _has(file, place, path):
            raise _malformed(path, f"no X and no layer named counts{_elsewhere(file, path, names)}")
        matrix = _element(file, place, path)
        if place == "X" and matrix.dtype.kind in "biuf" and (fault := _fault(_values(matrix))):
            raise _malformed(path, f"in X {fault}{_elsewhere(file, path, names)}")
        return _genes_alone(matrix, _feature_types(file, matrix.shape[-1], path) if matrix.ndim else None, path)


def _elsewhere(file: Any, path: Path, layers: dict[str, str]) -> str:
    """Names the elements of a file that do hold counts."""
    places = {**{f"layers[{name!r}]": place for name, place in layers.items()}, "raw.X": "raw/X"}
    holding = []
    for name, place in places.items():
        try:
            if _has(file, place, path) and _fault(_values(_element(file, place, path))) is None:
                holding.append(name)
        except (NotCounts, OSError, ValueError, KeyError, TypeError):
            continue
    return f"; counts are in {_several(holding, ' and ')}: write them as X, or as the layer counts" if holding else ""


def _element(file: Any, place: str, path: Path) -> Any:
    """A dense or sparse matrix of an .h5ad file, its indices checked."""
    group = _member(file, place, path)
    if not hasattr(group, "keys"):
        return _arrays(file, "", [place], path)[0]
    layout = _text(_attribute(group, "encoding-type", "h5sparse_format", path)).removesuffix("_matrix")
    if layout not in _COMPRESSED:
        raise _malformed(path, f"{place} as {layout[:LONGEST_TYPE] or 'a group'!r}; write it as a CSR matrix")
    shape = np.ravel(_attribute(group, "shape", "h5sparse_shape", path))
    data, indices, indptr = _arrays(file, place, ["data", "indices", "indptr"], path)
    return _compressed(layout, data, indices, indptr, shape, path)


def _attribute(group: Any, name: str, older: str, path: Path) -> Any:
    """An attribute of at most two values, under its name or an older one; "" where there is none."""
    name = name if name in group.attrs else older
    if name not in group.attrs:
        return ""
    if math.prod(group.attrs.get_id(name).shape) > 2:
        raise _malformed(path, f"a matrix of the shape or kind of more values than two: {name}")
    return group.attrs[name]


def _arrays(file: Any, group: str, names: list[str], path: Path) -> list[Any]:
    """Arrays of numbers of a group, once all of them together are within the bound."""
    arrays = [_declared(file, f"{group}/{name}".lstrip("/"), path) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "biuf":
            raise _malformed(path, f"no matrix of numbers: {name} is none")
    _bounded(path, sum(_bytes(array) for array in arrays))
    return [np.asarray(array[()]) for array in arrays]


def _declared(file: Any, place: str, path: Path) -> Any:
    """An array that is in the file itself, not yet read."""
    array = _member(file, place, path)
    if getattr(array, "shape", None) is None:
        raise _malformed(path, f"no array as {place}")
    if array.is_virtual or array.external:
        raise _malformed(path, f"{place} that lies in another file; write it anew")
    return array


def _bytes(array: Any) -> int:
    """The memory that reading takes: a chunk, which is unpacked whole, may be larger than its array."""
    return int(array.dtype.itemsize * max(math.prod(array.shape), math.prod(array.chunks or (0,))))


def _has(file: Any, place: str, path: Path) -> bool:
    """Whether a group or dataset is there, in the file itself: a link, which may lead elsewhere, is not followed."""
    import h5py

    inside = file
    for name in place.split("/"):
        link = inside.get(name, getlink=True) if hasattr(inside, "keys") else None
        if link is None:
            return False
        if not isinstance(link, h5py.HardLink):
            raise _malformed(path, f"{place} that lies in another file, or is a link; write it anew")
        inside = inside[name]
    return True


def _member(file: Any, place: str, path: Path) -> Any:
    if not _has(file, place, path):
        raise _malformed(path, f"no {place}")
    return file[place]


def _feature_types(file: Any, genes: int, path: Path) -> list[str] | None:
    """``var["feature_types"]``: texts, or codes into categories, which older files keep apart."""
    column, older = "var/feature_types", "var/__categories/feature_types"
    if "feature_types" not in _names(file, "var", path):
        return None
    kept_in = older if _has(file, older, path) else f"{column}/categories"
    if not _has(file, kept_in, path):
        return _texts(file, column, genes, path)
    categories = _texts(file, kept_in, genes, path)
    place = column if kept_in == older else f"{column}/codes"
    codes = _of_genes(_declared(file, place, path), place, genes, path)[()]
    if codes.dtype.kind not in "iu":
        raise _malformed(path, f"{place} that are no whole numbers")
    return [categories[code] if 0 <= code < len(categories) else "" for code in codes]


def _texts(file: Any, place: str, genes: int, path: Path) -> list[str]:
    """An array of texts, or the values of one that may have gaps."""
    place = f"{place}/values" if "values" in _names(file, place, path) else place
    array = _of_genes(_declared(file, place, path), place, genes, path)
    parts = (array[at : at + AT_ONCE] for at in range(0, len(array), AT_ONCE))
    return [_text(value)[:LONGEST_TYPE] for part in parts for value in part]


def _of_genes(array: Any, place: str, genes: int, path: Path) -> Any:
    """An array, if it is a list of as many values as there are genes, or fewer."""
    if len(array.shape) != 1 or len(array) > genes:
        raise _malformed(path, f"{genes} genes, but an array of the shape {array.shape} as {place}")
    _bounded(path, _bytes(array))
    return array


def _names(file: Any, place: str, path: Path) -> list[str]:
    group: Any = _member(file, place, path) if _has(file, place, path) else None
    return _texts_alone(group) if hasattr(group, "keys") else []


def _texts_alone(group: Any) -> list[str]:
    """The names in a group but those that are no UTF-8, which h5py gives as bytes."""
    return [name for name in group if isinstance(name, str)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# --- .mtx -------------------------------------------------------------------------


def _mtx(path: Path) -> Any:
    with _unpacked(path) as file:
        head = file.read(LONGEST_LINE)
    first, *others = head.split(b"\n")
    if not first.startswith(b"%%MatrixMarket"):
        raise _malformed(path, "no matrix: its first line does not begin with %%MatrixMarket")
    if len(head) == LONGEST_LINE and all(line.strip()[:1] in (b"", b"%") for line in others):
        raise _malformed(path, f"no size of a matrix in its first {LONGEST_LINE:,} bytes")
    with _unpacked(path) as file:
        rows, columns, entries, layout, field, _ = io.mminfo(_Lines(file, path))
    if field == "pattern":
        raise _malformed(path, "places without values")
    _bounded(path, SIDE * (rows + columns) + (32 * entries if layout == "coordinate" else 8 * rows * columns))
    genes, barcodes = _beside(path, "features", "genes"), _beside(path, "barcodes", "cells")
    upright = _genes_are_rows(path, (rows, columns), genes, barcodes)
    with _unpacked(path) as file:
        matrix = io.mmread(_Lines(file, path))
    types = [(*line.split("\t", 3), "", "", "")[2][:LONGEST_TYPE] for line in _lines(genes, rows + columns)]
    return _genes_alone(matrix.T if upright else matrix, types or None, path)


class _Lines:
    """A file for scipy's compiled reader, which takes a line into memory however long it is.

    It also reads past the end at a NUL, and at a last line that is not ended: that one is ended here.
    """

    def __init__(self, file: gzip.GzipFile | BufferedReader, path: Path) -> None:
        self._file, self._path, self._begun = file, path, 0

    def read(self, size: int) -> bytes:
        part = self._file.read(size) or b"\n"[: self._begun]
        if b"\0" in part:
            raise _malformed(self._path, "bytes of zero, which are no text; check the file, or write it anew")
        _, newline, rest = part.rpartition(b"\n")
        self._begun = len(rest) if newline else self._begun + len(part)
        if self._begun > LONGEST_LINE:
            raise _malformed(self._path, f"a line of more than {LONGEST_LINE:,} bytes")
        return part


def _genes_are_rows(path: Path, shape: tuple[int, int], genes: Path | None, barcodes: Path | None) -> bool:
    """Whether the lists beside a matrix say that genes are its rows, as 10x writes them."""
    lists = {name: place for name, place in (("genes", genes), ("barcodes", barcodes)) if place}
    if not lists:
        raise NotCounts(
            f"{path} does not say whether its {shape[0]} rows are genes or cells: put features.tsv, genes.tsv or "
            "barcodes.tsv beside it, under its name or plainly, or save it as .npz with cells as rows"
        )
    lengths = {name: sum(1 for _ in _lines(place, sum(shape))) for name, place in lists.items()}
    for upright, sides in ((True, shape), (False, shape[::-1])):
        expected = {"genes": sides[0], "barcodes": sides[1]}
        if all(expected[name] == length for name, length in lengths.items()):
            return upright
    counted = ", ".join(f"{place.name} beside it has {lengths[name]} lines" for name, place in lists.items())
    raise _malformed(path, f"{shape[0]} rows and {shape[1]} columns, but {counted}")


def _beside(path: Path, *words: str) -> Path | None:
    """The list beside a matrix: named as it is, or as its sample is, with another word at the end; or plainly."""
    stem = re.sub(r"(?i)\.mtx(\.gz)?$", "", path.name)
    before, matrix, after = stem.rpartition("matrix")
    sample = re.sub(r"[^_.]+$", "", stem)  # GSM1_ of GSM1_counts
    for word in words:
        named = [f"{before}{word}{after}"] if matrix else [f"{stem}_{word}", f"{stem}.{word}", f"{sample}{word}"]
        for name in (*named, word):
            for ending in (".tsv", ".tsv.gz", ".txt", ".txt.gz"):
                if (beside := path.with_name(name + ending)).is_file():
                    return beside
    return None


def _lines(path: Path | None, most: int) -> Iterator[str]:
    """The lines of a list that are not empty, among its first ``most`` and one."""
    if path is None:
        return
    with _unpacked(path) as file:
        for _ in range(most + 1):
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip("\r\n")


def _unpacked(path: Path) -> gzip.GzipFile | BufferedReader:
    """A file opened for reading, unpacked where its content is gzip's, whatever its name says."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _genes_alone(matrix: Any, types: list[str] | None, path: Path) -> Any:
    """A matrix without the columns that 10x says are no genes: antibodies, guides, peaks."""
    if types is None or OTHER_FEATURES.isdisjoint(types):
        return matrix
    if len(types) != matrix.shape[1]:
        raise _malformed(path, f"{matrix.shape[1]} genes, but the types of {len(types)}")
    genes = np.flatnonzero([name == GENES for name in types])
    if not genes.size:
        raise _malformed(path, f"no feature of type {GENES!r}, only {_several(sorted(set(types)))}")
    return (matrix.tocsc() if sparse.issparse(matrix) else matrix)[:, genes]
