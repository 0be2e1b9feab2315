"""The example of a program that improves, as a whole run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from example_runs import EXAMPLE, command

from sia_cli import main

pytestmark = [pytest.mark.real, pytest.mark.slow]

PROGRAM = EXAMPLE.parent / "improver" / "improver.py"


def test_the_example_teaches_the_agent_of_sums_both_operations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    improver = f"command:{shlex.join([sys.executable, str(PROGRAM)])}"
    assert main([*command(EXAMPLE, tmp_path), "--improver", improver]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("minus", True), ("times", True)]
    assert report["sealed"]["final"]["value"] == 1.0
    assert report["stopped"] == "every operation was tried"
