"""Several conversations that propose at the same time: each has a share of the budget, and ends by itself.

What a conversation does follows from its requests, its share and its own replies alone. So neither a kill nor the
order in which replies arrive changes what is asked, and a resumed run uses all that had arrived.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from sia_core.decision import Stop, UpdateWeights
from sia_core.errors import BudgetExhausted, ModelError
from sia_core.run import record
from sia_core.run.run_view import RunView
from sia_llm.conversation import Declined, GivenUpOn
from sia_llm.models import Patience, Provider
from sia_llm.paid_calls import Over, Permit, finishing
from sia_llm.proposal import Decided
from sia_llm.workbench import Workbench

_LATE = "it took longer than conversation_seconds allows"
_STOPPED = "the run is being stopped"


@dataclass(frozen=True)
class Proposing:
    """A conversation that can be begun: ``run`` gives its decisions, ``aside`` is what it has set aside so far."""

    model: str
    run: Callable[[], list[Decided]]
    aside: list[Decided]


@dataclass
class Seat:
    """The place of one conversation among several: its workbench, and how it came out."""

    number: int
    bench: Workbench
    purpose: str
    permit: Permit
    ended: Mapping[str, Any] | None
    """The recorded end that a stopped run put to it."""
    decisions: list[Decided] = field(default_factory=list)
    error: Exception | None = None
    """The reason why it decided nothing."""

    def take(self, talk: Proposing, future: Future[list[Decided]]) -> None:
        """Take what it decided, or what it had set aside and why it decided nothing."""
        self.decisions = talk.aside[:]
        if self.ended:
            self.decisions, self.error = talk.aside[: self.ended["aside"]], Over(self.ended["why"])
        elif not future.done():
            self.error = Over(_LATE)
        else:
            try:
                self.decisions = future.result()
            except BudgetExhausted as error:
                self.error = BudgetExhausted(f"no call of {talk.model} fits into its share of the budget: {error}")
                self.decisions = self.decisions or [Stop(reason=str(self.error))]
            except (GivenUpOn, ModelError, Over) as error:
                self.error = error

    def end(self) -> None:
        """Record that the others go on without it, for a run that is resumed or replayed to do the same."""
        if self.ended or not isinstance(self.error, ModelError | Over):
            return
        with self.permit.mutex:
            budget = self.bench.run.budget
            # What is settled between the two is booked twice, and the same when the run is resumed.
            booked = {"pending": budget.reserved, "spent": budget.spent}
            about = {"why": str(self.error), "aside": len(self.decisions), **booked}
            self.ended = self.bench.run.ledger.record(record.ended(self.purpose), about)
            self.permit.recorded = True

    def book(self, run: RunView) -> None:
        """Book what it spent; and what it still may, where something was under way when it was ended.

        A tool that was under way may end later, and may be used again when the run is resumed.
        """
        run.budget.settle({}, self.ended["spent"] if self.ended else self.bench.run.budget.spent)
        if self.ended:
            run.budget.settle({}, self.ended["pending"])


class SideBySide:
    """The conversations of one generation, ``among`` at once, each for at most ``seconds``."""

    def __init__(
        self,
        run: RunView,
        provider: Provider,
        patience: Patience,
        generation: int,
        among: int,
        seconds: float,
    ) -> None:
        self._run, self._seconds = run, seconds
        self.seats: list[Seat] = []
        self.counts: list[int] = []
        """The decisions that are of each conversation, once all are decided."""
        for number, share in enumerate(run.budget.shares(among)):
            permit = Permit()
            bench = Workbench(run.paid_from(share), provider, patience, permit=permit, sleep=permit.wait)
            purpose = bench.begin(record.proposed(generation, number))
            ended = (run.ledger.get(record.ended(purpose)) or (None,))[0]
            if ended:
                permit.take_back(ended["why"])
            self.seats.append(Seat(number, bench, purpose, permit, ended))

    def decided(self, talks: Sequence[Proposing]) -> list[Decided]:
        """The decisions of all, in their order. Where none comes to any, ModelError, or GivenUpOn with all reasons."""
        futures = [self._begun(talk.run, seat.number) for seat, talk in zip(self.seats, talks, strict=True)]
        with finishing(self._run.notice, lambda: self._end(_STOPPED)):
            wait(futures, self._seconds)
        self._end(_LATE)
        for seat, talk, future in zip(self.seats, talks, futures, strict=True):
            seat.take(talk, future)
        return self._together()

    def _end(self, why: str) -> None:
        """Let no conversation ask any more."""
        for seat in self.seats:
            seat.permit.take_back(why)

    def _begun(self, work: Callable[[], list[Decided]], number: int) -> Future[list[Decided]]:
        """The work in a thread that does not keep the process from ending. An error that ends the run ends all."""
        future: Future[list[Decided]] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except (BudgetExhausted, GivenUpOn, ModelError, Over) as error:
                future.set_exception(error)
            except BaseException as error:
                self._end(_STOPPED)
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name=f"sia-conversation-{number}").start()
        return future

    def _together(self) -> list[Decided]:
        useful = [seat for seat in self.seats if seat.decisions]
        for seat in self.seats:
            if useful:
                seat.end()
            elif isinstance(seat.error, GivenUpOn):
                seat.bench.give_up(seat.purpose, str(seat.error))
            seat.book(self._run)
        if not useful:
            failed = next((seat.error for seat in self.seats if isinstance(seat.error, ModelError)), None)
            kind = Declined if all(isinstance(seat.error, Declined) for seat in self.seats) else GivenUpOn
            raise failed or kind("; ".join(f"number {seat.number + 1}: {seat.error}" for seat in self.seats))
        for seat in self.seats:
            if seat.error:
                note = "; what it had set aside is tried" if without_repeats(seat.decisions) else ""
                self._run.notice(f"conversation {seat.number + 1} of {len(self.seats)}: {seat.error}{note}")
        decisions = without_repeats([each for seat in useful for each in seat.decisions])
        self.counts = [sum(any(each is one for one in decisions) for each in seat.decisions) for seat in self.seats]
        return decisions


def without_repeats(decisions: Sequence[Decided]) -> list[Decided]:
    """The decisions without updates that an earlier one trains already, and without a stop beside changes."""
    changes: list[Decided] = []
    trained = set()
    for each in decisions:
        if isinstance(each, Stop):
            continue
        if isinstance(each, UpdateWeights):
            what = each.model_dump_json(include={"algorithm", "config", "training", "parent"})
            if what in trained:
                continue
            trained.add(what)
        changes.append(each)
    return changes or list(dict.fromkeys(each for each in decisions if isinstance(each, Stop)))
