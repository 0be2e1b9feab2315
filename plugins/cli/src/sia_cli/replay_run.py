"""A run again from its records alone: what today's code would do at each of its steps, beside what was recorded.

Steps with effects (rollouts, explorations, training, times) are answered from the record.
Pure ones (drafts, decisions, diffs, verdicts, scores) are computed again, and compared;
later steps take the recorded result, so that one change is not reported as a hundred.
Nothing is written, and no model, verifier or sandbox is started.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sia_cli.betting import BettingGatekeeper
from sia_core import __version__
from sia_core.errors import PluginError, Unfinished, excerpt
from sia_core.evidence import AgentView
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run import record
from sia_core.run.approval import Paused
from sia_core.run.candidate import Candidate
from sia_core.run.ledger import Ledger, canonical
from sia_core.run.loop import Loop
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import new_secret
from sia_core.run.start import beginning, fingerprint, parts_of, recorded_config, task_of
from sia_core.run.trees import Trees
from sia_core.run.trust import confirm
from sia_core.types import Job

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """A step that today's code does otherwise: by path into its result, what is recorded and what comes out ``now``."""

    key: str
    changes: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay.

    ``ends`` says how it ended, ``beyond`` that it did where today's code leaves the
    record. ``unreached`` are recorded steps that were not come to. ``values`` holds what
    today's code gives for each step, effects as they are recorded.
    """

    run: str
    notes: tuple[str, ...]
    steps: int
    compared: int
    differences: tuple[Difference, ...]
    ends: str
    beyond: bool
    unreached: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)

    @property
    def agrees(self) -> bool:
        """Whether today's code does all that was recorded, and nothing else."""
        return not (self.differences or self.beyond or self.unreached)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "agrees": self.agrees,
            "notes": list(self.notes),
            "steps": self.steps,
            "compared": self.compared,
            "differences": [
                {
                    "key": each.key,
                    "changes": [{"path": path, "recorded": was, "now": now} for path, was, now in each.changes],
                }
                for each in self.differences
            ],
            "ends": self.ends,
            "unreached": list(self.unreached),
        }


class Unrecorded(Unfinished):
    """A step is asked for that the run never did. ``would`` is what today's code makes of it, where that is known."""

    def __init__(self, key: str, would: str) -> None:
        super().__init__(key)
        self.key, self.would = key, would


class Record(Ledger):
    """A run's ledger that computes pure steps again and compares them. It answers with what is recorded."""

    def __init__(self, folder: Path, *, readonly: bool = True) -> None:
        super().__init__(folder, readonly=readonly)
        self.keys = [key for key, _, _ in self.events() if not record.is_beside(key)]
        self.values: dict[str, Any] = {}
        self.differences: list[Difference] = []
        self.compared = 0

    def step(self, key: str, work: Callable[[], Any]) -> Any:
        recorded = self.get(key)
        pure = record.is_pure(key)
        if recorded is None:
            raise Unrecorded(key, _said(_now(work)) if pure else "")
        value = self.values[key] = _now(work) if pure else recorded[0]
        if pure:
            self.compared += 1
            if differences := tuple(changes(recorded[0], value)):
                self.differences.append(Difference(key, differences))
        return recorded[0]

    def record(self, key: str, value: Any) -> Any:
        """Only calls of language models are recorded otherwise than as a step: this one was never made."""
        raise Unrecorded(key, "")

    def ended(self, end: Unrecorded) -> tuple[bool, str]:
        """Whether today's code leaves the record at this step, and in words. Else the run was stopped before it."""
        beyond = record.FINISHED in self.keys or len(self.values) < len(self.keys)
        does = f"{end.key}{end.would and ': '}{end.would}"
        if beyond:
            return True, f"here today's code would do {does}, which the run never did"
        return False, f"the run was stopped here; next is {does}"


class _Looked(Trees):
    """Trees that are read and never written."""

    def put(self, tree: HarnessTree) -> str:
        return tree.digest


class _Serial(Loop):
    """One candidate after the other: one whose record ends does not keep the next from being compared."""

    def attempt(self, generation: int, planned: Sequence[Candidate]) -> list[Candidate]:
        tried, missing = [], []
        for each in planned:
            try:
                tried.append(self.runner.attempt(generation, each))
            except Unrecorded as end:
                missing.append(end)
        if missing:
            raise missing[0]
        return tried


class _Betting(_Serial):
    """A run that was recorded before the exact test, judged as it was then."""

    gatekeeper_for = BettingGatekeeper

    def likely_parents(self) -> list[AgentView]:
        return list(self.agents.values())

    def judge(self, generation: int, candidates: Sequence[Candidate]) -> None:
        super().judge(generation, candidates)
        self.look()

    def _row(self, *about: Any) -> dict[str, Any]:
        return {key: value for key, value in super()._row(*about).items() if not key.startswith("against")}


class _Idle:
    """A backend that runs nothing. Whoever waits for its work asks for a step that is not recorded."""

    slots = 1

    def submit(self, job: Job) -> Future[Any]:
        return Future()

    def close(self) -> None:
        pass


def replay(folder: Path, plugins: Plugins, trust: bool = False) -> Replay:
    """Replay a run, finished or not; LedgerError or PluginError where its records or its task cannot be read.

    The files that a run names are read only if this user started it, or with ``trust``.
    """
    with Record.read(folder) as ledger:
        started = ledger.values[record.RUN] = beginning(ledger)
        config = recorded_config(started, folder)
        confirm(folder, started, asdict(config), trust, reading=True)
        task = task_of(config, plugins)
        beyond, ends = True, ""
        try:
            parts = parts_of(config, task, ledger, _Looked(folder), _Idle(), plugins, Emitter(), new_secret())
            (_Serial if config.plan.earned is not None else _Betting)(config.plan, parts).improve()
            beyond, ends = False, "the run is finished"
        except Unrecorded as end:
            beyond, ends = ledger.ended(end)
        except Paused as paused:
            beyond, ends = record.FINISHED in ledger.keys, str(paused).rstrip(".")
        except PluginError:
            raise
        except Exception as error:  # today's code meets records of another, and may fail on them in any way
            ends = f"today's code fails on these records: {type(error).__name__}: {excerpt(str(error))}"
        return Replay(
            run=folder.name,
            notes=tuple(_notes(started, fingerprint(task))),
            steps=len(ledger.keys),
            compared=ledger.compared,
            differences=tuple(ledger.differences),
            ends=ends,
            beyond=beyond,
            unreached=tuple(key for key in ledger.keys if key not in ledger.values),
            values=ledger.values,
        )


def _notes(started: Mapping[str, Any], mark: str) -> Iterator[str]:
    if started["version"] != __version__:
        yield f"the run is of sia-core {started['version']}, and this is {__version__}"
    if started["fingerprint"] != mark:
        yield f"data, brief or catalogue of task {started['task']!r} are not those that the run started with"


def _now(work: Callable[[], Any]) -> Any:
    """The result of a pure step with today's code, as JSON; or its error."""
    try:
        return json.loads(canonical(work()))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {excerpt(str(error))}"}


def _said(value: Any) -> str:
    return excerpt(canonical(value), 300)


def changes(recorded: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two results differ: path, and both sides. Numbers that differ by their rounding are the same."""
    pairs: list[tuple[str, Any, Any]] | None = None
    if isinstance(recorded, dict) and isinstance(now, dict):
        keys = [*recorded, *(key for key in now if key not in recorded)]
        pairs = [(f".{key}", recorded.get(key, ABSENT), now.get(key, ABSENT)) for key in keys]
    elif isinstance(recorded, list) and isinstance(now, list):
        size = max(len(recorded), len(now))
        sides = ([*side, *[ABSENT] * (size - len(side))] for side in (recorded, now))
        pairs = [(f"[{index}]", *both) for index, both in enumerate(zip(*sides, strict=True))]
    if pairs is not None:
        for step, before, after in pairs:
            yield from changes(before, after, path + step)
    elif not _same(recorded, now):
        yield path.removeprefix("."), recorded, now


def _same(recorded: Any, now: Any) -> bool:
    numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (recorded, now))
    if numbers and float in (type(recorded), type(now)):
        return math.isclose(recorded, now, rel_tol=1e-9)
    return type(recorded) is type(now) and bool(recorded == now)
