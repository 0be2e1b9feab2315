"""A whole run on a small file, and what is exported of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

pytestmark = [pytest.mark.real, pytest.mark.slow]


def sia(*words: str) -> str:
    result = subprocess.run([sys.executable, "-m", "sia_cli", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_run_finds_a_denoiser_that_works_on_a_file(data: str, tmp_path: Path) -> None:
    words = ["run", "--plugin", "denoising", "--data", data, "--generations", "1", "--candidates", "1", "--json"]
    report: dict[str, Any] = json.loads(sia(*words, "--runs-dir", str(tmp_path / "runs")))
    initial, final = report["sealed"]["initial"], report["sealed"]["final"]
    assert final["ci95"][1] >= initial["ci95"][0]  # draws are secret, so how good it is on so small a file is chance
    (run,) = (tmp_path / "runs").glob("denoising-*")
    sia("export", str(run), str(tmp_path / "denoiser"))
    command = [sys.executable, str(tmp_path / "denoiser" / "denoiser.py"), data, str(tmp_path / "out.npz")]
    subprocess.run(command, check=True)
    matrix = np.load(tmp_path / "out.npz")["denoised"]
    assert matrix.shape == sparse.load_npz(data).shape
    assert np.isfinite(matrix).all()
    assert (matrix >= 0).all()
    again = sia("report", str(run), "--json")
    assert json.loads(again)["sealed"] == report["sealed"]
    pytest.importorskip("matplotlib")
    pytest.importorskip("sia_dashboard")
    sia("report", str(run), "--html", str(tmp_path / "report.html"))
    assert 'alt="before-and-after.png' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_user_s_mistake_is_told_and_no_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    for words, message in (
        (["--data", str(broken)], "cannot be read"),
        (["--data", str(tmp_path / "none.npz")], "is not a file"),
        (["--set", "reward=best"], "is none of mse_norm"),
        (["--set", "sealed_data=none.npz"], "is not a file"),
    ):
        command = [sys.executable, "-m", "sia_cli", "run", "--plugin", "denoising", *words]
        command += ["--runs-dir", str(tmp_path / "runs")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
