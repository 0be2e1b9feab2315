"""Reading runs for pages: each ledger opened once, read-only, and no step of it read twice.

A step never changes once it is recorded, so what was read of it stays true; a page of
a run that goes on reads what came since.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from sia_core.errors import LedgerError, SiaError
from sia_core.evidence import Rollout, summarise
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run.intervals import estimate, in_units
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord, batch_of, is_verdict
from sia_core.run.trees import Trees
from sia_core.types import Split
from sia_dashboard.bounds import MOST_WORDS, SHOWN, bounded, cut
from sia_reading.artefact import recorded_task
from sia_reading.outcomes import best_reward, failure_of, right_answers
from sia_reading.possible import to_read
from sia_reading.report import build

HIDDEN = frozenset({"sealed", "perturbed"})
"""Purposes whose rollouts are not shown one by one, as in ``sia show``: whoever reads them has seen the test."""

HEAD = 120

MOST_BYTES = 2**30
"""Of a record that is read; the time that a page takes grows with it."""

MOST_CANDIDATES = 10_000
MOST_ROLLOUTS, MOST_TEXT = 200_000, 50_000_000
"""Rollouts that are listed of a run, and characters of theirs that can be searched."""

BROKEN = (
    LedgerError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    UndefinedError,
)
"""Errors of reading a record that is damaged or made up."""


@dataclass(frozen=True)
class Row:
    """A rollout in a list: where it stands in the record, and enough to choose it by.

    ``failure`` is empty for a right answer; ``ended`` says right, partial or wrong of an answer whose metric has
    bounds, and else how the rollout ended.
    """

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
    failure: str
    ended: str
    text: str = field(repr=False)

    @property
    def where(self) -> tuple[str, str, str, int]:
        """The rollout's place in the record: purpose, agent, batch, and number in the batch."""
        return self.purpose, self.agent, self.batch, self.place

    def matches(self, words: str) -> bool:
        """Whether a text occurs in what the rollout asked, was told, answered or printed; case does not matter."""
        return words in self.text


@dataclass(frozen=True)
class RolloutFilter:
    """Which rollouts a list shows; an empty text leaves the choice open."""

    purpose: str = ""
    agent: str = ""
    outcome: str = ""
    words: str = ""

    def takes(self, row: Row) -> bool:
        """Whether a list with this filter shows a row."""
        return (
            self.purpose in ("", row.purpose)
            and self.agent in ("", row.agent)
            and self.outcome in ("", row.outcome, row.failure)
            and (not self.words or row.matches(self.words.casefold()))
        )


@dataclass(frozen=True)
class Case:
    """A rollout's input, and a list of its right answer; both are empty where they are not known, or not shown."""

    input: Mapping[str, Any] = field(default_factory=dict)
    expected: Sequence[Any] = ()


class Record:
    """One run. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _check_size(folder)
        self._ledger = Ledger.read(folder)
        self._record = RunRecord(self._ledger)
        self._mutex = threading.RLock()
        self._keys: dict[str, int] = {}
        self._seq = 0
        self._rows: list[Row] = []
        self._text = 0
        self._cases: dict[str, dict[str, Case]] = {}
        self._begun: Mapping[str, Any] = {}
        self.left_out = 0
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
                count = sum(is_verdict(key) for key in self._keys)
                if count > MOST_CANDIDATES:
                    raise LedgerError(f"{self.name} has {count:,} candidates, more than a page can show; {_OTHERWISE}")
                report = build(self._ledger)
                rows = [bounded(row) for row in report["generations"]]
                self._report = seq, {**bounded(report), "run": self.name, "generations": rows}
            return self._report[1]

    def rows(self) -> Sequence[Row]:
        """The rollouts that may be looked at, in the order of the record; ``left_out`` are past the bound."""
        with self._mutex:
            self.seen()
            keys = list(self._keys)
            for key in keys[self._indexed :]:
                for row in self._read(key):
                    if len(self._rows) < MOST_ROLLOUTS:
                        self._rows.append(row)
                    else:
                        self.left_out += 1
            self._indexed = len(keys)
            return self._rows

    def rollout(self, purpose: str, agent: str, batch: str, place: int) -> Rollout | None:
        """One rollout whole, or None where there is none to be looked at."""
        entry = None if purpose in HIDDEN else self._record.batch(purpose, agent, batch)
        return self._in_units(Rollout.from_json(entry.rows[place])) if entry and 0 <= place < len(entry.rows) else None

    def case(self, purpose: str, instance: str) -> Case:
        """The case of a rollout, with its right answer where people may see that."""
        split: Split = "gate" if purpose == "gate" else "search"
        with self._mutex:
            if split not in self._cases:
                self._cases[split] = self._read_cases(split)
            return self._cases[split].get(instance, Case())

    def _read_cases(self, split: Split) -> dict[str, Case]:
        """The cases of a split; none where the task has changed since, or a run of somebody else is not trusted."""
        try:
            task = recorded_task(self._ledger, Plugins.discover())
            right = right_answers(task, split)
            return {
                each.id: Case(dict(each.input), [right[each.id]] if each.id in right else [])
                for each in task.instances(split)
            }
        except (SiaError, OSError, *BROKEN):
            return {}

    def rollouts_of(self, agent: str, purpose: str) -> list[Rollout]:
        """An agent's rollouts of one purpose."""
        return [self._in_units(each) for each in self._record.rollouts(purpose, agent)]

    def candidate(self, generation: int, index: int) -> dict[str, Any] | None:
        """A decision with all that is recorded of it; None where there is none."""
        decisions = self._record.decisions(generation)
        rows = self.report()["generations"]
        row = next((each for each in rows if (each["index"], each["candidate"]) == (generation, index)), None)
        if row is None and not index < len(decisions):
            return None
        decision = decisions[index] if index < len(decisions) else {}
        parent = (row and row["parent"]) or decision.get("parent") or self.first
        return {
            "name": f"{generation}.{index}",
            "decision": bounded(decision),
            "row": row,
            "diff": self._record.diff(generation, index),
            "steps": self.steps(generation, index),
            "parent": parent,
            "agent": row["agent"] if row else None,
            "evidence": bounded(self.evidence(parent)),
        }

    def steps(self, generation: int, index: int) -> list[dict[str, Any]]:
        """The steps of a weight update so far, each with what is worth watching."""
        steps: list[dict[str, Any]] = in_units(self._direction, self._record.training_steps(generation, index))
        return steps

    def evidence(self, agent: str) -> dict[str, Any] | None:
        """An agent's evidence for the improver: statistics, failures and worst cases on search, its exploration."""
        rollouts = self._record.rollouts("search", agent)
        if not rollouts:
            return None
        explored = self._record.explored(agent)
        # What a failure earns is the task's to say, and no task is loaded here: what one earned, or else the least.
        failed = [each.reward for each in rollouts if each.outcome != "ok"]
        summary = summarise(rollouts, min(failed or [each.reward for each in rollouts]))
        evidence: dict[str, Any] = {
            "stats": asdict(summary.stats),
            "failures": [asdict(each) for each in summary.failures],
            "worst": summary.worst,
            "explored": explored["stats"] if explored else None,
            "fault": explored["fault"] if explored else "",
        }
        return {key: in_units(self._direction, value) for key, value in evidence.items()}

    @property
    def _best(self) -> float:
        """The best reward; of a metric without bounds it is not known, and each answer that counts is right."""
        return best_reward(self.metric, (-math.inf,))

    @property
    def _worst(self) -> float:
        bounds = self.metric.get("bounds") or (-math.inf, math.inf)
        return float(-bounds[1] if self._direction == "minimize" else bounds[0])

    @property
    def metric(self) -> Mapping[str, Any]:
        """The run's metric; empty before the run's first step, which never changes."""
        if not self._begun:
            started = self._record.run
            self._begun = started["metric"] if started else {}
        return self._begun

    @property
    def _direction(self) -> str:
        """The direction of the run's metric: the record has rewards, of which more is always better."""
        return str(self.metric.get("direction", ""))

    def _in_units(self, rollout: Rollout) -> Rollout:
        return replace(rollout, reward=in_units(self._direction, rollout.reward, "reward"))

    @cached_property
    def first(self) -> str:
        """The agent that the run began with; empty before it is drafted."""
        return self.draft[:12]

    @property
    def draft(self) -> str:
        """The digest of the first harness; empty before it is drafted."""
        return self._record.draft or ""

    def names(self) -> dict[str, str]:
        """The names of the agents, by their ids: a candidate's place and what was changed. It costs no report."""
        named = {
            row["agent"]: cut(f"{row['generation']}.{row['candidate']} {row['name']}", MOST_WORDS)
            for row in self._record.candidates()[:MOST_CANDIDATES]
            if row["agent"]
        }
        return {**named, self.first: "first agent"}

    def first_gate(self) -> dict[str, Any] | None:
        """The first agent's gate score, once it has one."""
        rewards = [each.reward for each in self._record.rollouts("gate", self.first)] if self.first else []
        if not rewards:
            return None
        score: dict[str, Any] = to_read(self._direction, asdict(estimate(rewards)), self.metric.get("bounds"))
        return score

    def under_way(self) -> list[dict[str, Any]]:
        """Decisions that nothing has come of yet."""
        return [
            {"name": f"{generation}.{index}", "decision": bounded(decision)}
            for generation, index, decision in self._record.undecided()[:SHOWN]
        ]

    def harness(self, digest: str) -> HarnessTree | None:
        """A harness by its digest; None where the run has none like that, or it cannot be read."""
        try:
            return Trees(self.folder).get(digest)
        except (SiaError, ValueError):
            return None

    def _read(self, key: str) -> Iterator[Row]:
        named = batch_of(key)
        if named is None or named[0] in HIDDEN or len(key) > MOST_KEY:
            return
        purpose, agent, batch = named
        entry, direction, best, worst = self._record.batch(*named), self._direction, self._best, self._worst
        for place, each in enumerate(entry.rows if entry else ()):
            turns = [m["content"] for turn in each.get("turns", ()) for m in (*turn["messages"], *turn["replies"])]
            texts = (each["instance"], each["answer"] or "", each["message"], each["feedback"], each["log"], *turns)
            text = "\n".join(texts)[: MOST_TEXT - self._text].casefold()
            self._text += len(text)
            yield Row(
                purpose=purpose,
                agent=agent,
                batch=batch,
                place=place,
                instance=each["instance"][:HEAD],
                outcome=each["outcome"][:HEAD],
                reward=in_units(direction, each["reward"], "reward"),
                seconds=each["seconds"],
                tokens=each.get("tokens", 0),
                answer=(each["answer"] or each["message"])[:HEAD],
                failure=failure_of(each["outcome"], each["reward"], best) or "",
                ended=_ended(each["outcome"][:HEAD], each["reward"], worst, best),
                text=text,
            )


def _ended(outcome: str, reward: float, worst: float, best: float) -> str:
    if outcome != "ok" or not math.isfinite(best):
        return outcome
    return "right" if reward >= best else "wrong" if reward <= worst else "partial"


MOST_KEY = 300
"""Characters of a step's name. A run's are shorter; of longer ones no address is made."""

_OTHERWISE = "`sia report` and `sia show` read it"


def _check_size(folder: Path) -> None:
    """LedgerError for a record that is too large to be read for a page."""
    size = sum(path.stat().st_size for path in folder.glob("ledger.db*") if path.is_file())
    if size > MOST_BYTES:
        raise LedgerError(f"the record of {folder.name} has {size:,} bytes, more than a page can show; {_OTHERWISE}")
