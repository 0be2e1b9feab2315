"""Reading runs for pages: each ledger opened once, read-only, and no step of it read twice.

A step never changes once it is recorded, so what was read of it stays true; a page of
a run that goes on reads what came since.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_core.errors import LedgerError, SiaError
from sia_core.evidence import Rollout, summarise
from sia_core.harness import HarnessTree
from sia_core.intervals import estimate
from sia_core.ledger import Ledger
from sia_core.report import build
from sia_core.running import runs_in
from sia_core.trees import Trees

HIDDEN = frozenset({"sealed", "perturbed"})
"""Purposes whose rollouts are not shown one by one, as in ``sia show``: whoever reads them has seen the test."""

HEAD = 120


@dataclass(frozen=True)
class Row:
    """A rollout in a list: where it stands in the record, and enough to choose it by."""

    purpose: str
    agent: str
    batch: str
    place: int
    instance: str
    outcome: str
    reward: float
    seconds: float
    tokens: int
    answer: str
    text: str = field(repr=False)

    def matches(self, words: str) -> bool:
        """Whether a text occurs in what the rollout asked, was told, answered or printed; case does not matter."""
        return words in self.text


@dataclass(frozen=True)
class Wanted:
    """Which rollouts a list shows; an empty text leaves the choice open."""

    purpose: str = ""
    agent: str = ""
    outcome: str = ""
    words: str = ""

    def takes(self, row: Row) -> bool:
        return (
            self.purpose in ("", row.purpose)
            and self.agent in ("", row.agent)
            and self.outcome in ("", row.outcome)
            and row.matches(self.words.casefold())
        )


class Record:
    """One run. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ledger = Ledger.read(folder)
        self._mutex = threading.RLock()
        self._keys: dict[str, int] = {}
        self._seq = 0
        self._rows: list[Row] = []
        self._indexed = 0
        self._report: tuple[int, dict[str, Any]] = (-1, {})

    @property
    def name(self) -> str:
        return self.folder.name

    def close(self) -> None:
        self._ledger.close()

    def seen(self) -> int:
        """The number of the last step that is recorded by now."""
        with self._mutex:
            for seq, key in self._ledger.since(self._seq):
                self._keys[key], self._seq = seq, seq
            return self._seq

    def report(self) -> dict[str, Any]:
        """The run's report, as far as it goes."""
        with self._mutex:
            if self._report[0] != (seq := self.seen()):
                self._report = seq, build(self._ledger)
            return self._report[1]

    def get(self, key: str) -> Any:
        """The result of a step, or None."""
        found = self._ledger.get(key)
        return found[0] if found else None

    def rows(self) -> Sequence[Row]:
        """Every rollout that may be looked at, in the order of the record."""
        with self._mutex:
            self.seen()
            keys = list(self._keys)
            for key in keys[self._indexed :]:
                self._rows += self._read(key)
            self._indexed = len(keys)
            return self._rows

    def rollout(self, purpose: str, agent: str, batch: str, place: int) -> Rollout | None:
        """One rollout whole, or None where there is none to be looked at."""
        found = None if purpose in HIDDEN else self.get(f"rollouts/{purpose}/{agent}/{batch}")
        if found is None or not 0 <= place < len(found["rollouts"]):
            return None
        return Rollout.from_json(found["rollouts"][place])

    def rollouts_of(self, agent: str, purpose: str) -> list[Rollout]:
        """An agent's rollouts of one purpose."""
        batches = (batch for _, batch, _ in self._ledger.events(f"rollouts/{purpose}/{agent}/"))
        return [Rollout.from_json(each) for batch in batches for each in batch["rollouts"]]

    def candidate(self, generation: int, index: int) -> dict[str, Any] | None:
        """A decision with all that is recorded of it; None where there is none."""
        decisions = self.get(f"generation/{generation}/decide") or []
        gated = self.get(f"generation/{generation}/gated/{index}")
        if gated is None and not index < len(decisions):
            return None
        decision = decisions[index] if index < len(decisions) else {}
        rows = self.report()["generations"]
        row = next((each for each in rows if (each["index"], each["candidate"]) == (generation, index)), None)
        parent = (row and row["parent"]) or decision.get("parent") or self.first
        return {
            "name": f"{generation}.{index}",
            "decision": decision,
            "row": row,
            "diff": self.get(f"generation/{generation}/diff/{index}") or "",
            "steps": self.steps(generation, index),
            "parent": parent,
            "agent": row["agent"] if row else None,
            "evidence": self.evidence(parent),
        }

    def steps(self, generation: int, index: int) -> list[dict[str, Any]]:
        """The steps of a weight update so far, each with what is worth watching."""
        prefix = f"generation/{generation}/train/{index}/"
        chunks = (value for _, value, _ in self._ledger.events(prefix) if "steps" in value)
        return [step for chunk in chunks for step in chunk["steps"]]

    def evidence(self, agent: str) -> dict[str, Any] | None:
        """What the improver could read of an agent: statistics, failures and worst cases on search, its exploration."""
        found = self.rollouts_of(agent, "search")
        if not found:
            return None
        explored = self.get(f"explore/{agent}")
        # What a failure earns is the task's to say, and no task is loaded here: what one earned, or else the least.
        failed = [each.reward for each in found if each.outcome != "ok"]
        summary = summarise(found, min(failed or [each.reward for each in found]))
        return {
            "stats": asdict(summary.stats),
            "failures": summary.failures,
            "worst": summary.worst,
            "explored": explored["stats"] if explored else None,
            "fault": explored["fault"] if explored else "",
        }

    @cached_property
    def first(self) -> str:
        """The agent that the run began with; empty before it is drafted."""
        return str(self.get("draft") or "")[:12]

    def first_gate(self) -> dict[str, Any] | None:
        """The first agent's gate score, once it has one."""
        rewards = [each.reward for each in self.rollouts_of(self.first, "gate")] if self.first else []
        return asdict(estimate(rewards)) if rewards else None

    def under_way(self) -> list[dict[str, Any]]:
        """Decisions that nothing has come of yet."""
        self.seen()
        waiting = []
        for key in [key for key in self._keys if key.startswith("generation/") and key.endswith("/decide")]:
            generation = key.split("/")[1]
            for index, decision in enumerate(self.get(key)):
                if decision["lever"] != "stop" and f"generation/{generation}/gated/{index}" not in self._keys:
                    waiting.append({"name": f"{generation}.{index}", "decision": decision})
        return [] if "closed" in self._keys else waiting

    def harness(self, digest: str) -> HarnessTree | None:
        """A harness by its digest; None where the run has none like that, or it cannot be read."""
        try:
            return Trees(self.folder).get(digest)
        except (SiaError, ValueError):
            return None

    def _read(self, key: str) -> Iterator[Row]:
        parts = key.split("/")
        if len(parts) != 4 or parts[0] != "rollouts" or parts[1] in HIDDEN:
            return
        _, purpose, agent, batch = parts
        for place, each in enumerate(self.get(key)["rollouts"]):
            turns = [m["content"] for turn in each.get("turns", ()) for m in (*turn["messages"], *turn["replies"])]
            said = (each["instance"], each["answer"] or "", each["message"], each["feedback"], each["log"], *turns)
            yield Row(
                purpose=purpose,
                agent=agent,
                batch=batch,
                place=place,
                instance=each["instance"],
                outcome=each["outcome"],
                reward=each["reward"],
                seconds=each["seconds"],
                tokens=each.get("tokens", 0),
                answer=(each["answer"] or each["message"])[:HEAD],
                text="\n".join(said).casefold(),
            )


class Library:
    """The runs of a folder, each opened when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.Lock()
        self._open: dict[str, tuple[int, Record]] = {}

    def names(self) -> list[str]:
        """The runs, the newest first."""
        return [path.name for path in reversed(runs_in(self.folder))]

    def record(self, name: str) -> Record:
        """A run by its name; KeyError where there is none, LedgerError where it cannot be read."""
        # By the listing, so that no name leads out of the folder.
        path = {each.name: each for each in runs_in(self.folder)}[name]
        inode = (path / "ledger.db").stat().st_ino
        with self._mutex:
            known = self._open.get(name)
            if known is None or known[0] != inode:
                self._open[name] = inode, Record(path)
            return self._open[name][1]

    def reports(self) -> list[Mapping[str, Any]]:
        """The report of every run; of one that cannot be read, why."""
        found: list[Mapping[str, Any]] = []
        for name in self.names():
            try:
                found.append(self.record(name).report())
            except LedgerError as error:
                found.append({"run": name, "status": "unreadable", "cause": str(error), "generations": []})
        return found

    def seen(self) -> dict[str, int]:
        """How far each run that can be read is recorded."""
        reached = {}
        for name in self.names():
            try:
                reached[name] = self.record(name).seen()
            except (LedgerError, KeyError):
                reached[name] = -1
        return reached

    def close(self) -> None:
        for _, record in self._open.values():
            record.close()
