"""A person's word before weights are updated or more than a sum is spent: the run pauses, and is resumed with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sia_core.errors import SiaError, UsageError
from sia_core.run import record
from sia_core.run.budget import KINDS, Budget, Cost, Limit
from sia_core.run.candidate import Candidate
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord


class Paused(SiaError):
    """The run waits for a person's word. Nothing is lost; the CLI exits with 3."""

    exit_code = 3


@dataclass(frozen=True)
class Rules:
    """A person is asked before each pull of these ``levers``, and past these ``sums`` since the last word."""

    levers: frozenset[str] = frozenset()
    sums: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, levers: Collection[str]) -> Rules:
        """Read ``weights,dollars=1,rollouts=20000``; the ``levers`` are those on offer."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        try:
            sums = Limit.parse(",".join(part for part in parts if part not in levers)).amounts
        except UsageError as error:
            raise UsageError(f"{error}, or a lever: {', '.join(levers)}".replace("--budget", "--approve", 1)) from None
        return cls(frozenset(parts) & frozenset(levers), sums)


class Approval:
    """Asks where the rules say so. What was asked and said is recorded, so a resumed run asks nothing twice."""

    def __init__(self, rules: Rules, ledger: Ledger, budget: Budget) -> None:
        self._rules, self._ledger, self._budget = rules, ledger, budget
        self._since: Mapping[str, float] = dict.fromkeys(KINDS, 0.0)

    def generation(self, index: int) -> bool:
        """Whether to begin another generation, which asks the improver and may cost money."""
        return self._given(record.generation(index), f"generation {index} would begin", {})

    def candidates(self, generation: int, planned: Sequence[Candidate], look: Cost) -> list[Candidate]:
        """The candidates, refused where they were declined. ``look`` is what each takes beside applying its lever."""
        allowed, totals = [], dict.fromkeys(KINDS, 0.0)
        for each in planned:
            if not each.refused:
                costs = {**each.plan.estimate, **(look + each.plan.cost).kinds}
                amounts = {kind: totals[kind] + costs.get(kind, 0.0) for kind in KINDS if kind != "dollars"}
                key = f"{record.generation(generation)}/{each.index}"
                if self._given(key, _what(each), amounts, each.decision.lever):
                    totals |= amounts
                else:
                    each = replace(each, refused="declined by a person")
            allowed.append(each)
        return allowed

    def _given(self, key: str, what: str, amounts: Mapping[str, float], lever: str = "") -> bool:
        """Whether to go on with something that takes about these amounts; Paused where nobody has said yet."""
        spent = self._budget.spent
        since = {kind: spent[kind] - self._since[kind] + amounts.get(kind, 0.0) for kind in self._rules.sums}
        over = [f"{since[kind]:,.6g} {kind}" for kind, most in self._rules.sums.items() if since[kind] > most]
        if not over and lever not in self._rules.levers:
            return True
        reply = self._ledger.get(record.answered(key))
        if reply is None:
            why = f"{what}; with it {', '.join(over)} since the last word" if over else what
            self._ledger.step(record.asked(key), lambda: {"what": why})
            folder = self._ledger.folder
            run = folder.name if folder.parent == Path("runs") else folder
            raise Paused(
                f"the run waits for your word: {why}. `sia resume {run} --approve` goes on with it, "
                f"`sia resume {run} --decline` goes on without it."
            )
        self._since = spent
        return bool(reply[0]["approved"])


def answer(ledger: Ledger, approved: bool) -> None:
    """Record a person's word on all that the run waits for; UsageError where it waits for none."""
    questions = RunRecord(ledger).questions()
    if not questions:
        raise UsageError(
            f"{ledger.folder.name} waits for no approval; `sia resume {ledger.folder.name}` goes on with it"
        )
    for key in questions:
        ledger.record(record.answered(key), {"approved": approved})


def _what(candidate: Candidate) -> str:
    estimate = candidate.plan.estimate
    units = {"rollouts": "rollouts", "tokens": "tokens", "seconds": "s"}
    costs = [f"{estimate[kind]:,.0f} {unit}" for kind, unit in units.items() if kind in estimate]
    cost = f", for about {', '.join(costs)}" if costs else ""
    return f"{candidate.decision.title} of agent {candidate.parent.id}{cost}"
