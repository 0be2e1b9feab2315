"""The words of a run's ledger: the key of every step and the shape of its record, each once.

A ledger holds steps by key (:mod:`sia_core.run.ledger`). Writers name a step by the functions here; readers ask
:class:`RunRecord`. No other module spells a key, takes one apart, or knows which fields early versions did not record.

Keys are part of the format on disk: runs recorded with them are resumed and replayed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, cast

from sia_core.errors import LedgerError
from sia_core.evidence import MOST_COUNTED, Rollout
from sia_core.run.budget import KINDS
from sia_core.run.ledger import Ledger

if TYPE_CHECKING:
    from sia_core.run.record_rows import GatedRow, RunRow

RUN = "run"
SANDBOX = "sandbox"
POLICY = "policy"
GATE = "gate"
GATE_REPEATED = "gate/repeated"
"""The gate's reach once the noise within an instance is known; only where a run asks instances repeatedly."""
DRAFT = "draft"
EARLIER = "earlier"
"""The lessons of earlier runs that an improver was given."""
CLOSED = "closed"
ROBUSTNESS = "robustness"
FINISHED = "finished"

SEAL = "seal"
"""A part of a run that takes time, as are a generation, the draft and the look at robustness."""

CALLS = "calls/"
"""Paid calls of language models: intents, failures and replies."""

_GIVEN_UP, _ENDED, _PROPOSERS = f"{CALLS}given-up/", f"{CALLS}ended/", f"{CALLS}proposers/"
_APPROVAL = "approval/"
_ASKED, _ANSWERED = f"{_APPROVAL}asked/", f"{_APPROVAL}said/"

INVALID, OUT_OF_BOUNDS = "invalid-answer", "out-of-bounds"
"""Outcomes of a rollout whose answer the task's model does not take, or earned what the metric's bounds do not hold."""
JUDGED = ("ok", INVALID, OUT_OF_BOUNDS)
End = Literal["initial", "final"]


def generation(index: int) -> str:
    """A generation, which takes time, or waits for a person's word."""
    return f"generation/{index}"


def decided(index: int) -> str:
    """The decisions of a generation."""
    return f"{generation(index)}/decide"


def proposed(index: int, place: int) -> str:
    """One of the conversations of a generation that go on at the same time."""
    return f"{generation(index)}/propose/{place}"


def diff(index: int, candidate: int) -> str:
    """How a candidate's harness differs from its parent's."""
    return f"{generation(index)}/diff/{candidate}"


def gated(index: int, candidate: int) -> str:
    """A candidate's verdict."""
    return f"{generation(index)}/gated/{candidate}"


def update(index: int, candidate: int) -> str:
    """A weight update, which names its steps by it."""
    return f"{generation(index)}/train/{candidate}"


def pull(index: int, candidate: int) -> str:
    """A plugin's lever that is applied, which names its steps by it."""
    return f"{generation(index)}/pull/{candidate}"


def estimate(of_update: str) -> str:
    """The estimate of an update's cost."""
    return f"{of_update}/estimate"


def training(of_update: str, first: int) -> str:
    """Some optimizer steps of an update, from its ``first``."""
    return f"{of_update}/{first:05d}"


def batch(purpose: str, agent: str, number: int) -> str:
    """A batch of an agent's rollouts."""
    return f"rollouts/{purpose}/{agent}/{number:04d}"


def experiment(digest: str) -> str:
    """Code that an improver had run, by its digest."""
    return f"experiment/{digest}"


def explored(agent: str) -> str:
    """The distribution of an agent's rewards, as a learner would meet it."""
    return f"explore/{agent}"


def sealed(end: str) -> str:
    """The sealed score of the first or the final agent."""
    return f"sealed/{end}"


def answer(end: str) -> str:
    """The best answer of the first or the final agent, in a task of kind ``discover``."""
    return f"answer/{end}"


def verified_answer(end: str, what: str) -> str:
    """The verifier's word on a final answer: on sealed, or on a round of gate instances."""
    return f"answers/{end}/{what}"


def seconds(part: str) -> str:
    """The time that a part of the run took."""
    return f"{part}/seconds"


def spent(step: str) -> str:
    """The amounts that the work of a step booked by itself."""
    return f"{step}/spent"


def call(purpose: str, digest: str) -> str:
    """A request to a language model, which names its tries by it, numbered where it is made again."""
    return f"{CALLS}{purpose}/{digest[:16]}"


def attempt(of_call: str, what: Literal["intent", "failed"], number: int) -> str:
    """A try of a call: before it is made, or once it has failed."""
    return f"{of_call}/{what}/{number}"


def reply(of_call: str) -> str:
    """The reply to a call."""
    return f"{of_call}/reply"


def given_up(conversation: str) -> str:
    """A conversation that led nowhere, and its cost."""
    return f"{_GIVEN_UP}{conversation}"


def ended(conversation: str) -> str:
    """The end that was put to a conversation while others went on: it gets no further reply."""
    return f"{_ENDED}{conversation}"


def proposers(index: int) -> str:
    """The models that were ``asked`` in a generation's conversations, and that ``made`` each of its candidates."""
    return f"{_PROPOSERS}{generation(index)}"


def asked(question: str) -> str:
    """A question to a person."""
    return f"{_ASKED}{question}"


def answered(question: str) -> str:
    """A person's word on a question."""
    return f"{_ANSWERED}{question}"


_CALL = re.compile(r"(calls/.+/[0-9a-f]{16}/\d{1,9})/(intent|failed|reply)(?:/\d{1,9})?")
_DECIDED = re.compile(r"generation/(\d{1,9})/decide")
_GATED = re.compile(r"generation/(\d{1,9})/gated/(\d{1,9})")
_PURE = re.compile(
    r"gate(/repeated)?|draft|closed|robustness|finished|(sealed|answer)/\w+"
    r"|generation/\d+/(decide|diff/\d+|gated/\d+|train/\d+/estimate)"
)


def is_pure(key: str) -> bool:
    """Whether a step follows from the steps before it; any other is an effect, which a replay never runs again."""
    return _PURE.fullmatch(key) is not None


def is_beside(key: str) -> bool:
    """Whether a step stands beside the run's own, which no later step asks for: paid calls and persons' words."""
    return key.startswith((CALLS, _APPROVAL))


@dataclass(frozen=True)
class Batch:
    """A batch of recorded rollouts. ``cut`` of the policy's ``replies`` ended at a length that no harness had named."""

    purpose: str
    agent: str
    rows: Sequence[Mapping[str, Any]]
    replies: int = 0
    cut: int = 0
    peak: int = 0
    short: int = 0

    @classmethod
    def of(cls, key: str, row: Mapping[str, Any]) -> Batch:
        """The batch that a step of the ledger recorded. LedgerError for counts that no run records."""
        _, purpose, agent, _ = key.split("/")
        counts = [row.get(name, 0) for name in ("replies", "cut", "peak", "short")]
        if not all(type(each) is int and 0 <= each <= MOST_COUNTED for each in counts):
            raise LedgerError(f"a batch of rollouts ({key}) has counts that no run records")
        return cls(purpose, agent, row["rollouts"], *counts)

    def rollouts(self) -> list[Rollout]:
        """The rows as rollouts. LedgerError for one that no run records."""
        return [Rollout.from_json(each) for each in self.rows]


_EARLY: dict[str, Any] = {"table": "", "estimate": {}, "took": {}, "stopped": ""}
_EARLY |= dict.fromkeys(("adapter", "gain", "against", "against_parent"))
"""Fields of a verdict that runs of before did not record."""


class RunRecord:
    """A run as its ledger records it, whoever wrote it. Each property and method reads the current state."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, key: str) -> Any:
        """The record of a finished step, or None."""
        entry = self._ledger.get(key)
        return entry[0] if entry else None

    @property
    def run(self) -> RunRow | None:
        """The configuration, task and metric of the run; None where it was stopped before its first step."""
        row = self.get(RUN)
        # Runs of before tasks to discover have no kind, and earlier ones no verifier's name.
        return cast("RunRow", {"kind": "solve", "verifier": None, **row}) if row is not None else None

    @property
    def sandbox(self) -> dict[str, Any] | None:
        """The sandbox's ``name`` and the guarantees that it ``lacks``."""
        return cast(dict[str, Any] | None, self.get(SANDBOX))

    @property
    def gate(self) -> dict[str, Any]:
        """The reach of the gate, as its keeper told it at the beginning."""
        return self.get(GATE_REPEATED) or self.get(GATE) or {}

    @property
    def draft(self) -> str | None:
        """The digest of the first harness."""
        return cast(str | None, self.get(DRAFT))

    @property
    def closed(self) -> dict[str, Any] | None:
        """The end of the search, with the reason ``why``."""
        return cast(dict[str, Any] | None, self.get(CLOSED))

    @property
    def finished(self) -> dict[str, Any] | None:
        """The last step of a finished run; None while it is unfinished."""
        return cast(dict[str, Any] | None, self.get(FINISHED))

    def candidates(self) -> list[GatedRow]:
        """Every verdict, in order."""
        rows = []
        for key, row, _ in self._ledger.events("generation/"):
            if named := _GATED.fullmatch(key):
                early = "promoted" if row.get("accepted") else ""
                rows.append(cast("GatedRow", {**_EARLY, "outcome": early, **row, "candidate": int(named[2])}))
        return rows

    def decisions(self, index: int) -> list[dict[str, Any]]:
        """The decisions of a generation as they were typed; none before it decided."""
        return list(self.get(decided(index)) or [])

    def undecided(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Generation, candidate and decision of each change that has no verdict yet, unless the run is closed."""
        if self.closed:
            return []
        verdicts = {(row["generation"], row["candidate"]) for row in self.candidates()}
        return [
            (int(named[1]), place, decision)
            for key, decisions, _ in self._ledger.events("generation/")
            if (named := _DECIDED.fullmatch(key))
            for place, decision in enumerate(decisions)
            if decision["lever"] != "stop" and (int(named[1]), place) not in verdicts
        ]

    def diff(self, index: int, candidate: int) -> str:
        """How a candidate's harness differs from its parent's; empty where it does not."""
        return str(self.get(diff(index, candidate)) or "")

    def training_steps(self, index: int, candidate: int) -> list[dict[str, Any]]:
        """The optimizer steps of an update so far, each with its figures."""
        chunks = (row for _, row, _ in self._ledger.events(f"{update(index, candidate)}/") if "steps" in row)
        return [step for chunk in chunks for step in chunk["steps"]]

    def explored(self, agent: str) -> dict[str, Any] | None:
        """The ``stats`` of an agent's rewards, or the ``fault`` that an update would meet."""
        return cast(dict[str, Any] | None, self.get(explored(agent)))

    def batch(self, purpose: str, agent: str, number: str) -> Batch | None:
        """A batch by the parts of its key."""
        key = f"rollouts/{purpose}/{agent}/{number}"
        row = self.get(key)
        return Batch.of(key, row) if row else None

    def batches(self, purpose: str = "", agent: str = "") -> Iterator[Batch]:
        """The batches of rollouts in order, of every purpose and agent where none is named."""
        prefix = "/".join(["rollouts", *filter(None, (purpose, purpose and agent))])
        return (Batch.of(key, row) for key, row, _ in self._ledger.events(f"{prefix}/") if batch_of(key))

    def rollouts(self, purpose: str, agent: str) -> list[Rollout]:
        """An agent's rollouts of one purpose."""
        return [each for batch in self.batches(purpose, agent) for each in batch.rollouts()]

    def given_up(self, conversation: str) -> list[dict[str, Any]]:
        """The times that a conversation led nowhere."""
        return [row for _, row, _ in self._ledger.events(f"{given_up(conversation)}/")]

    def calls(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The key of a paid call, ``intent``, ``failed`` or ``reply``, and that record of it, in order."""
        for key, row, _ in self._ledger.events(CALLS):
            if call := _CALL.fullmatch(key):
                yield call[1], call[2], row

    def replies(self) -> Iterator[dict[str, Any]]:
        """The replies of language models, one conversation after the other; without what came too late to be used."""
        rows = [(_place(call), row) for call, what, row in self.calls() if what == "reply" and "late" not in row]
        return (row for _, row in sorted(rows, key=itemgetter(0)))

    def questions(self) -> dict[str, str]:
        """The questions that wait for a person's word, by name."""
        questions = {key.removeprefix(_ASKED): row["what"] for key, row, _ in self._ledger.events(_ASKED)}
        return {name: what for name, what in questions.items() if self.get(answered(name)) is None}

    def spent(self) -> dict[str, float]:
        """The amounts that the recorded steps took, by kind: less than was booked where a sweep was given up."""
        total = dict.fromkeys(KINDS, 0.0)
        for key, row, _ in self._ledger.events():
            for kind, amount in _taken(key, row).items():
                total[kind] += amount
        return total


def _place(call: str) -> list[tuple[int, str]]:
    """The conversation of a call, to sort by: 10 comes after 9."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in call.split("/")[1:-2]]


def is_verdict(key: str) -> bool:
    """Whether a key names a candidate's verdict."""
    return _GATED.fullmatch(key) is not None


def batch_of(key: str) -> tuple[str, str, str] | None:
    """Purpose, agent and number of the batch that a key names; None where it names none."""
    match key.split("/"):
        case ["rollouts", purpose, agent, number]:
            return purpose, agent, number
    return None


def verified(rollouts: Sequence[Rollout]) -> int:
    """How many answers the verifier, or the answer's model, had to judge."""
    return sum((each.outcome in JUDGED) + len(each.evaluated) for each in rollouts)


def _taken(key: str, row: Any) -> dict[str, float]:
    """The amounts that a recorded step took; records of early versions lack some kinds."""
    match key.split("/"):
        case ["rollouts", *_]:
            rollouts = [Rollout.from_json(each) for each in row["rollouts"]]
            tokens = float(sum(each.tokens for each in rollouts))
            return {"rollouts": len(rollouts), "verifications": verified(rollouts), "tokens": tokens}
        case ["experiment", _]:
            return {"rollouts": 1.0}
        case ["explore", _]:
            counts = {kind: row.get(kind, 0.0) for kind in ("rollouts", "verifications")}
            return {**counts, "tokens": row.get("tokens", 0.0) * counts["rollouts"]}
        case ["generation", _, "train", _, _] if "steps" in row:
            kinds = ("rollouts", "verifications", "tokens")
            return {kind: sum(step.get(kind, 0.0) for step in row["steps"]) for kind in kinds}
        case ["answers", *_]:
            return {"verifications": len(row)}
        case ["calls", *_]:
            return {"dollars": row.get("dollars", 0.0)}
        case [*_, "seconds"]:
            return {"seconds": row}
    return {}
