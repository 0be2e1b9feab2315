"""A person's word before weights are updated or more than a sum is spent: the run pauses, and is resumed with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sia_core.budget import KINDS, Budget, Limit
from sia_core.decision import UpdateWeights
from sia_core.errors import SiaError, UsageError
from sia_core.ledger import Ledger

if TYPE_CHECKING:
    from sia_core.candidate import Candidate
    from sia_core.plan import Cost

APPROVAL = "approval/"
ASKED = f"{APPROVAL}asked/"
SAID = f"{APPROVAL}said/"
WEIGHTS = "weights"


class Paused(SiaError):
    """The run waits for a person's word. Nothing is lost; the CLI exits with 3."""

    exit_code = 3


@dataclass(frozen=True)
class Rules:
    """What is asked about: every weight update, and spending past these ``sums`` since the last word."""

    weights: bool = False
    sums: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Read ``weights,dollars=1,rollouts=20000``."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        try:
            sums = Limit.parse(",".join(part for part in parts if part != WEIGHTS)).amounts
        except UsageError as error:
            raise UsageError(str(error).replace("--budget", "--approve", 1)) from None
        return cls(WEIGHTS in parts, sums)


class Approval:
    """Asks where the rules say so. What was asked and said is recorded, so a resumed run asks nothing twice."""

    def __init__(self, rules: Rules, ledger: Ledger, budget: Budget) -> None:
        self._rules, self._ledger, self._budget = rules, ledger, budget
        self._since: Mapping[str, float] = dict.fromkeys(KINDS, 0.0)

    def generation(self, index: int) -> bool:
        """Whether to begin another generation, which asks the improver and may cost money."""
        return self._given(f"generation/{index}", f"generation {index + 1} would begin", {})

    def candidates(self, generation: int, planned: Sequence[Candidate], look: Cost) -> list[Candidate]:
        """The candidates, refused where they were declined. ``look`` is what each takes beside training."""
        allowed, taken = [], dict.fromkeys(KINDS, 0.0)
        for each in planned:
            if not each.refused:
                amounts = {kind: taken[kind] + amount for kind, amount in _amounts(each, look).items()}
                key = f"generation/{generation}/{each.index}"
                if self._given(key, _what(each), amounts, update=isinstance(each.decision, UpdateWeights)):
                    taken |= amounts
                else:
                    each = replace(each, refused="declined by a person")
            allowed.append(each)
        return allowed

    def _given(self, key: str, what: str, amounts: Mapping[str, float], *, update: bool = False) -> bool:
        """Whether to go on with something that takes about these amounts; Paused where nobody has said yet."""
        spent = self._budget.spent
        since = {kind: spent[kind] - self._since[kind] + amounts.get(kind, 0.0) for kind in self._rules.sums}
        over = [f"{since[kind]:,.6g} {kind}" for kind, most in self._rules.sums.items() if since[kind] > most]
        if not over and not (update and self._rules.weights):
            return True
        said = self._ledger.get(f"{SAID}{key}")
        if said is None:
            why = f"{what}; with it {', '.join(over)} since the last word" if over else what
            self._ledger.step(f"{ASKED}{key}", lambda: {"what": why})
            raise Paused(f"the run waits for your word: {why}. {_how_to_answer(self._ledger.folder)}")
        self._since = spent
        return bool(said[0]["approved"])


def _how_to_answer(folder: Path) -> str:
    run = folder.name if folder.parent == Path("runs") else folder
    return f"`sia resume {run} --approve` goes on with it, `sia resume {run} --decline` goes on without it."


def waiting(ledger: Ledger) -> dict[str, str]:
    """What a run waits for a word on, by its key."""
    asked = {key.removeprefix(ASKED): value["what"] for key, value, _ in ledger.events(ASKED)}
    return {key: what for key, what in asked.items() if ledger.get(f"{SAID}{key}") is None}


def answer(ledger: Ledger, approved: bool) -> None:
    """Record a person's word on all that the run waits for; UsageError where it waits for none."""
    asked = waiting(ledger)
    if not asked:
        raise UsageError(
            f"{ledger.folder.name} waits for no approval; `sia resume {ledger.folder.name}` goes on with it"
        )
    for key in asked:
        ledger.record(f"{SAID}{key}", {"approved": approved})


def _what(candidate: Candidate) -> str:
    if not isinstance(candidate.decision, UpdateWeights):
        return f"edit {candidate.name} of agent {candidate.parent.id}"
    estimate = candidate.estimate
    cost = f"{estimate['rollouts']:,.0f} rollouts, {estimate['tokens']:,.0f} tokens and {estimate['seconds']:,.0f} s"
    return f"an update of agent {candidate.parent.id} by {candidate.name}, for about {cost}"


def _amounts(candidate: Candidate, look: Cost) -> dict[str, float]:
    trains = {kind: candidate.estimate.get(kind, 0.0) for kind in ("tokens", "seconds")}
    return {**(look + candidate.trains).kinds, **trains}
