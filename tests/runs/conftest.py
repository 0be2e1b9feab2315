"""Runs of the example agent through the command line, with the real sandbox and verifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, Run, command, smaller

from sia_cli import main


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A copy of the example, with half of its cases: ``agent/`` and ``cases.jsonl``."""
    return smaller(EXAMPLE, tmp_path / "sums", 200)


@pytest.fixture
def run(sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*options)`` starts a run of the example and returns its report."""

    def start(*options: str) -> dict[str, Any]:
        assert main([*command(sums, tmp_path), *options]) == 0, capsys.readouterr().err
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return start
