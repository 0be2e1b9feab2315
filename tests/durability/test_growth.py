"""A run of 200 generations costs, a generation, what a short one does: in work, in records, on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from durability.growth import IMPROVERS, Mark, grow

from sia_core.run.ledger import Ledger


def between(marks: list[Mark], first: int, last: int) -> dict[str, float]:
    """The mean cost of a generation between the two."""
    before, after = (next(each for each in marks if each.generation == at) for at in (first, last))
    names = ("calls", "events", "ledger", "blobs", "files")
    return {name: (getattr(after, name) - getattr(before, name)) / (last - first) for name in names}


@pytest.mark.parametrize(
    ("improver", "generations"),
    [("endless", 40), *(pytest.param(name, 200, marks=pytest.mark.slow) for name in sorted(IMPROVERS))],
)
def test_disk_and_work_grow_linearly_with_generations(tmp_path: Path, improver: str, generations: int) -> None:
    marks = grow(tmp_path / "run", generations, generations // 4, IMPROVERS[improver]())
    half = generations // 2
    early, late = between(marks, generations // 4, half), between(marks, half, generations)
    print(early, late, sep="\n")
    for name, cost in early.items():
        assert late[name] <= cost * 1.1, name
    with Ledger.read(tmp_path / "run") as ledger:
        assert ledger.get("finished")
