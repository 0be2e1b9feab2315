"""Runs of the example agent through the command line, with the real sandbox and verifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, Run, command

from sia_core.cli import main


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A copy of the example: ``agent/`` and ``cases.jsonl``."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "sums"))


@pytest.fixture
def run(sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*options)`` starts a run of the example and returns its report."""

    def start(*options: str) -> dict[str, Any]:
        assert main([*command(sums, tmp_path), *options]) == 0, capsys.readouterr().err
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return start
