"""Tokens that are set aside before they are spent: an agent's, handed out batch by batch, to each rollout its share.

The gateway refuses a call whose prompt and longest reply do not fit what is left of its
rollout's share, so what an agent takes is never more than was set aside for it. What a batch
did not use, later ones may. Shares depend on the order of batches and on what they used, never
on which was the fastest.
"""

from __future__ import annotations

import math

MARGIN = 1.25
"""Set aside at least: so many times what an agent is expected to take."""

MOST = 8.0
"""Set aside at most, where there is as much: an edit may make an agent read and say more."""


class Allowance:
    """The tokens of one agent; without a limit where the budget has none.

    ``strict`` says that a rollout that runs out of its share ends the sweep; it is counted
    in ``short`` in any case. ``peak`` is the largest share that any rollout so far came to
    need, ``rollouts`` how many were booked.
    """

    def __init__(self, tokens: float = math.inf, *, strict: bool = True) -> None:
        self.strict = strict
        self.spent, self.peak, self.rollouts, self.short = 0.0, 0, 0, 0
        self._tokens, self._held = tokens, 0.0

    @property
    def left(self) -> float:
        """What can still be handed out."""
        return self._tokens - self.spent - self._held

    @property
    def mean(self) -> float:
        """What a rollout took."""
        return self.spent / self.rollouts if self.rollouts else 0.0

    def share(self, rollouts: int, batches: int = 1) -> int | None:
        """Set aside for a batch, one of so many that may start now; what each of its rollouts may use, or None."""
        if math.isinf(self._tokens):
            return None
        each = int(max(0.0, self.left) // (rollouts * batches))
        self._held += each * rollouts
        return each

    def settle(self, each: int | None, rollouts: int, used: float, peak: int = 0, short: int = 0) -> None:
        """Book what a batch used, and take the rest of its share back."""
        self._held -= (each or 0) * rollouts
        self.spent += used
        self.peak, self.short = max(self.peak, peak), self.short + short
        self.rollouts += rollouts

    def forfeit(self) -> None:
        """Book all that is under way at its most: nobody will say what it used."""
        self.spent, self._held = self.spent + self._held, 0.0
