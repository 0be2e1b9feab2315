"""The exported denoiser as a command: it reads what ``--data`` reads, the same way round, and refuses the rest."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io, sparse

from sia_denoising.export import files_of

X = np.random.default_rng(1).poisson(2, (40, 40))
"""As many genes as cells, so that a transposed matrix has no other shape."""

DENOISER = """
import numpy as np

def denoise(counts):
    return np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, dtype=np.float32)
"""


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    for name, content in files_of(DENOISER, "denoiser").items():
        (tmp_path / name).write_bytes(content)

    def run(counts: Path, out: str = "out.npz") -> subprocess.CompletedProcess[str]:
        # Isolated, so that nothing of this repository is found by its place.
        command = [sys.executable, "-s", str(tmp_path / "denoiser.py"), str(counts), str(tmp_path / out)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")

    return run


def mtx(path: Path) -> None:
    io.mmwrite(path, sparse.coo_matrix(X.T), field="integer")
    path.with_name("barcodes.tsv").write_text("c\n" * 40)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("csr.npz", lambda path: sparse.save_npz(path, sparse.csr_matrix(X))),
        ("csc.npz", lambda path: sparse.save_npz(path, sparse.csc_matrix(X))),
        ("coo.npz", lambda path: sparse.save_npz(path, sparse.coo_array(X))),
        ("dense.npz", lambda path: np.savez(path, X.astype(float))),
        ("matrix.mtx", mtx),
    ],
)
def test_counts_are_denoised_the_way_round_that_the_file_has_them(
    tmp_path: Path, exported: Callable[[Path], Any], name: str, write: Callable[[Path], Any]
) -> None:
    write(tmp_path / name)
    result = exported(tmp_path / name)
    assert result.returncode == 0, result.stderr
    assert (np.load(tmp_path / "out.npz")["denoised"] == X).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(np.arange(1600).reshape(40, 40) == 3, np.nan, X), "not finite"),
        (np.where(np.arange(1600).reshape(40, 40) == 3, -1, X), "negative values"),
        (np.log1p(X), "not normalised or log-transformed"),
    ],
)
def test_values_that_are_no_counts_are_refused_with_exit_code_2(
    tmp_path: Path, exported: Callable[[Path], Any], values: Any, message: str
) -> None:
    np.savez(tmp_path / "counts.npz", values)
    result = exported(tmp_path / "counts.npz")
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.npz").exists()


def test_a_missing_file_and_a_folder_that_cannot_be_written_are_told(
    tmp_path: Path, exported: Callable[[Path], Any]
) -> None:
    assert exported(tmp_path / "none.npz").returncode == 2
    (tmp_path / "out.npz").mkdir()
    np.savez(tmp_path / "counts.npz", X)
    result = exported(tmp_path / "counts.npz")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("out", ["out.h5ad", "out"])
def test_a_name_that_is_not_of_an_npz_file_is_refused_and_none_is_written_beside_it(
    tmp_path: Path, exported: Callable[..., Any], out: str
) -> None:
    np.savez(tmp_path / "dense.npz", X)
    result = exported(tmp_path / "dense.npz", out)
    assert result.returncode == 2
    assert "write to out.npz" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_how_to_use_it_from_python_runs_as_it_stands(tmp_path: Path) -> None:
    files = files_of(DENOISER, "denoiser")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "counts.npz", X)
    text = files["HOW-TO-USE.md"].decode().partition("From Python:")[2].partition("The result")[0]
    code = textwrap.dedent(text).replace("counts.h5ad", "counts.npz")
    subprocess.run([sys.executable, "-s", "-c", code], check=True, cwd=tmp_path)
