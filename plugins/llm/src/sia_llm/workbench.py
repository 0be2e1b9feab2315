"""The desk that a language model works at: the view of its run, and paid calls through the run's ledger and budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sia_core.run import record
from sia_core.run.record import RunRecord
from sia_core.run.run_view import RunView
from sia_llm.models import Patience, Provider
from sia_llm.paid_calls import Calls


class Workbench:
    """One run's. A conversation that led nowhere is recorded with its cost, and begun anew when the run is resumed."""

    def __init__(self, run: RunView, provider: Provider, patience: Patience, **more: Any) -> None:
        self.run = run
        self.calls = Calls(provider, run.ledger, run.budget, run.notice, patience=patience, **more)
        self._began: Mapping[str, float] = {}

    def begin(self, of: str) -> str:
        """The name of a conversation's calls; a new one after each time that it was given up, which is booked."""
        given_up = RunRecord(self.run.ledger).given_up(of)
        for row in given_up:
            self.run.budget.settle({}, row["spent"])
        self._began = self.run.budget.spent
        return f"{of}/{len(given_up)}"

    def give_up(self, purpose: str, why: str) -> None:
        """Record that a conversation led nowhere, and what it cost."""
        spent = {kind: amount - self._began.get(kind, 0.0) for kind, amount in self.run.budget.spent.items()}
        self.run.ledger.record(record.given_up(purpose), {"why": why, "spent": spent})
