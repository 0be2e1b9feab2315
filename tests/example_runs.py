"""The example agent as a run: its command line, and reports without what may differ."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "examples" / "sums"

Run = Callable[..., dict[str, Any]]


def command(sums: Path, folder: Path) -> list[str]:
    """The command line of a run of the example."""
    where = ["--runs-dir", str(folder / "runs"), "--json"]
    return ["run", "--harness", str(sums / "agent"), "--data", str(sums / "cases.jsonl"), "--verifier", "exact", *where]


def smaller(example: Path, target: Path, cases: int) -> Path:
    """A copy of an example's folder that has its first cases alone."""
    shutil.copytree(example, target)
    with (target / "cases.jsonl").open(encoding="utf-8") as file:
        lines = file.readlines()
    (target / "cases.jsonl").write_text("".join(lines[:cases]), encoding="utf-8")
    return target


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """A report without its name and times."""
    spent = {kind: amount for kind, amount in report["budget"]["spent"].items() if kind != "seconds"}
    return {**report, "run": "", "budget": {**report["budget"], "spent": spent}}
