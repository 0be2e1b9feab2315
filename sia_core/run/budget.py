"""One budget for a run, in counts: reserved before spending, so that it is never overrun.

Seconds are the safety stop: the loop looks at them between generations, and an update at each of its steps. Tokens are
shared out to sweeps beforehand (:mod:`sia_core.run.allowance`), and the gateway refuses a call that may not fit.
Dollars are what language models cost, reserved before each call by the most that it can come to.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from sia_core.errors import BudgetExhausted, UsageError

KINDS = ("rollouts", "verifications", "tokens", "seconds", "dollars")


@dataclass(frozen=True)
class Limit:
    """The most that a run may spend, by kind; a kind that is missing is unlimited."""

    amounts: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read ``rollouts=20000,seconds=600``; a bare number counts rollouts."""
        amounts = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            kind, _, number = part.rpartition("=")
            kind = kind.strip() or "rollouts"
            if kind not in KINDS:
                raise UsageError(f"--budget: unknown kind {kind!r}; a budget counts {', '.join(KINDS)}")
            try:
                amount = float(number)
            except ValueError:
                amount = math.nan
            if not (math.isfinite(amount) and amount >= 0):
                raise UsageError(f"--budget: {part!r} is not an amount; write for example rollouts=20000,seconds=600")
            if kind in amounts:
                raise UsageError(f"--budget: {kind} is given twice")
            amounts[kind] = amount
        return cls(amounts)


@dataclass(frozen=True)
class Cost:
    """The rollouts and verifications that a part of a run takes."""

    rollouts: float = 0.0
    verifications: float = 0.0

    @property
    def kinds(self) -> dict[str, float]:
        """The amounts by kind, as a budget counts them."""
        return {"rollouts": float(self.rollouts), "verifications": float(self.verifications)}

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.rollouts + other.rollouts, self.verifications + other.verifications)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.rollouts - other.rollouts, self.verifications - other.verifications)


class Budget:
    """Keeps count of limits, spending and reservations. Safe to use from several threads."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._mutex = threading.Lock()
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._reserved = dict.fromkeys(KINDS, 0.0)

    @property
    def spent(self) -> dict[str, float]:
        """The amounts spent so far, by kind."""
        with self._mutex:
            return dict(self._spent)

    @property
    def reserved(self) -> dict[str, float]:
        """The amounts set aside, by kind."""
        with self._mutex:
            return dict(self._reserved)

    def shares(self, among: int) -> list[Budget]:
        """A budget for each of several that work at the same time: an even share of what is left of every limit.

        What is spent of a share is booked here by whoever asked for it. Seconds are not shared out.
        """
        with self._mutex:
            amounts = {kind: max(0.0, self._left(kind)) / among for kind in self.limit.amounts if kind != "seconds"}
        return [Budget(Limit(amounts)) for _ in range(among)]

    def left(self, kind: str) -> float:
        """The amounts that can still be reserved; infinite where there is no limit."""
        with self._mutex:
            return self._left(kind)

    def reserve(self, **amounts: float) -> None:
        """Set amounts aside, all or none; BudgetExhausted, and nothing reserved, where one does not fit."""
        if not all(amount >= 0 for amount in amounts.values()):
            raise ValueError(f"a reservation is never negative: {amounts}")
        with self._mutex:
            for kind, amount in amounts.items():
                if amount > self._left(kind):
                    raise BudgetExhausted(
                        f"{amount:g} {kind} do not fit into the budget: {self._spent[kind]:g} of "
                        f"{self.limit.amounts[kind]:g} are spent and {self._reserved[kind]:g} reserved"
                    )
            for kind, amount in amounts.items():
                self._reserved[kind] += amount

    def settle(self, reserved: Mapping[str, float], spent: Mapping[str, float]) -> None:
        """Give a reservation back and book what was spent for it."""
        with self._mutex:
            for kind, amount in reserved.items():
                self._reserved[kind] -= amount
            for kind, amount in spent.items():
                self._spent[kind] += amount

    def _left(self, kind: str) -> float:
        return self.limit.amounts.get(kind, math.inf) - self._spent[kind] - self._reserved[kind]
