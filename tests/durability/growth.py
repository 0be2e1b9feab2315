"""A long run without a model, and what it came to at points on its way."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from sia_core.decision import Prediction, RewriteHarness
from sia_core.evidence import AgentView, Evidence, TaskView
from sia_core.harness import HarnessTree, Write
from sia_core.playbook import Entry, Playbook
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.plan import Plan
from sia_core.types import Improver
from sia_playbook.improver import Bandit
from sia_testing.fakes import SKILL, FakeTask, fake_parts

CANDIDATES = 2
BETTER = 25
"""One edit in this many is a better skill, so that the incumbent changes now and then."""


@dataclass(frozen=True)
class Mark:
    """A run's totals at the end of a generation, since its beginning."""

    generation: int
    seconds: float
    calls: int
    events: int
    ledger: int
    blobs: int
    files: int


COLUMNS = [each.name for each in fields(Mark)]


def change(number: int, size: int) -> Write:
    """The edit of this number: some raise the skill, most write a file that nobody reads."""
    if number % BETTER == BETTER - 1:
        return Write(path=SKILL, text=f"{0.2 + 0.75 * number / size:.4f}\n")
    return Write(path="note.txt", text=f"{number:06}\n" + "x" * 200)


def catalogue(size: int) -> Playbook:
    """A number of edits."""
    return Playbook(
        edit=tuple(
            Entry(name=f"edit-{number:06}", summary="an edit", change=(change(number, size),), family=f"f{number % 40}")
            for number in range(size)
        )
    )


class Endless:
    """An improver to which an edit costs nothing: what grows with a run that it makes is the loop's."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        return task.seed

    def decide(self, evidence: Evidence) -> list[RewriteHarness]:
        first = CANDIDATES * evidence.generation
        return [
            RewriteHarness(name=f"edit-{n:06}", edits=(change(n, 400),), reason="next", prediction=Prediction(gain=0.0))
            for n in range(first, first + CANDIDATES)
        ]


IMPROVERS: dict[str, Callable[[], Improver]] = {"playbook": Bandit, "endless": Endless}


class Meter:
    """Counts calls of Python functions while it is on."""

    def __init__(self) -> None:
        self.calls = 0

    def on(self) -> None:
        threading.setprofile(self._count)  # of threads that start from now on
        sys.setprofile(self._count)

    def off(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        self.calls += event == "call"


def grow(folder: Path, generations: int, every: int, improver: Improver) -> list[Mark]:
    """Make the run; a mark before it, and after each ``every`` generations."""
    marks: list[Mark] = []
    meter = Meter()

    class Marking(Loop):
        def generation(self, index: int) -> str:
            if index % every == 0:
                marks.append(mark(index))
            return super().generation(index)

        def seal(self, first: AgentView, why: str) -> None:
            marks.append(mark(generations))
            meter.off()
            super().seal(first, why)

    def mark(generation: int) -> Mark:
        meter.off()
        pages, size, events = (
            ledger._db.execute(f"SELECT {what}").fetchone()[0]
            for what in ("page_count FROM pragma_page_count", "page_size FROM pragma_page_size", "count(*) FROM events")
        )
        files = [path for path in folder.rglob("*") if path.is_file()]
        blobs = sum(path.stat().st_size for path in files if "blobs" in path.parts)
        latest = Mark(generation, time.monotonic() - started, meter.calls, events, pages * size, blobs, len(files))
        meter.on()
        return latest

    task = FakeTask(200, catalogue(generations * CANDIDATES + 20))
    with Ledger.create(folder) as ledger:
        ledger.record("run", {"config": {"plan": {"levers": ["harness"]}}})
        ledger._db.execute("PRAGMA synchronous=OFF")  # what a disk takes for a commit is no matter here
        plan, parts = Plan(generations=generations, candidates=CANDIDATES), fake_parts(ledger, improver, task=task)
        started = time.monotonic()
        try:
            Marking(plan, parts).improve()
        finally:
            meter.off()
    return marks
