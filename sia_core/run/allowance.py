"""Tokens that are set aside before they are spent: an agent's, handed out batch by batch, to each rollout its share.

The gateway refuses a call whose prompt and longest reply do not fit what is left of its rollout's share, so what an
agent takes is never more than was set aside for it. What a batch did not use, later ones may. Shares depend on the
order of batches and on what they used, never on which was the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from sia_core.errors import UsageError
from sia_core.run.budget import Budget

MARGIN = 1.25
"""The least to set aside, as a multiple of what an agent is expected to take."""

MOST = 8.0
"""The most to set aside, as such a multiple: an edit may make an agent read and say more."""


class Allowance:
    """The tokens of one agent; without a limit where the budget has none.

    ``strict`` says that a rollout that runs out of its share ends the sweep; it is counted in ``short`` in any case.
    ``peak`` is the largest share that any rollout so far came to need, ``rollouts`` how many were booked.
    """

    def __init__(self, tokens: float = math.inf, *, strict: bool = True) -> None:
        self.strict = strict
        self.spent, self.peak, self.rollouts, self.short = 0.0, 0, 0, 0
        self._tokens, self._reserved = tokens, 0.0

    @property
    def left(self) -> float:
        """The amount that can still be handed out."""
        return self._tokens - self.spent - self._reserved

    @property
    def mean(self) -> float:
        """The tokens of a rollout, on average."""
        return self.spent / self.rollouts if self.rollouts else 0.0

    def share(self, rollouts: int, batches: int = 1) -> int | None:
        """Set tokens aside for one of the ``batches`` that may start now; the share of each rollout, or None."""
        if math.isinf(self._tokens):
            return None
        each = int(max(0.0, self.left) // (rollouts * batches))
        self._reserved += each * rollouts
        return each

    def settle(self, each: int | None, rollouts: int, used: float, peak: int = 0, short: int = 0) -> None:
        """Book what a batch used, and take the rest of its share back."""
        self._reserved -= (each or 0) * rollouts
        self.spent += used
        self.peak, self.short = max(self.peak, peak), self.short + short
        self.rollouts += rollouts

    def forfeit(self) -> None:
        """Book all that is under way at its most: nobody will say what it used."""
        self.spent, self._reserved = self.spent + self._reserved, 0.0


class TokenShares:
    """The shares of one run. ``at_once`` is the most rollouts of an agent that are under way at once."""

    def __init__(self, budget: Budget, at_once: int) -> None:
        self._budget, self._at_once = budget, at_once
        self._took: dict[str, tuple[float, int]] = {}  # by agent: a rollout's tokens, and the most that one needed
        self._reserve = 0.0

    @property
    def counted(self) -> bool:
        """True where the budget limits tokens."""
        return "tokens" in self._budget.limit.amounts

    def took(self, agent: str, allowance: Allowance) -> None:
        """Note what an agent took."""
        self._took[agent] = (allowance.mean, allowance.peak)

    def expected(self, agent: str, rollouts: float) -> float:
        """The least tokens to set aside for these rollouts of an agent, or of one made of it.

        What is under way at once is counted at its most.
        """
        mean, peak = self._took[agent]
        return MARGIN * mean * rollouts + peak * min(rollouts, self._at_once)

    def share(self, parent: str, rollouts: float, estimate: float, among: int) -> float:
        """The tokens of a candidate: an even share of what is left for ``among`` candidates, within bounds.

        The bounds follow from what its parent took; ``estimate`` is what applying its lever takes.
        """
        if not self.counted:
            return math.inf
        need = self.expected(parent, rollouts) + MARGIN * estimate
        share = self._budget.left("tokens") / among
        return min(MOST * need, max(share, need)) if need else share

    def keep(self, agents: Collection[str], rollouts: float) -> None:
        """Set tokens aside for these sealed rollouts of each agent, in place of what was set aside before."""
        self.release()
        tokens = sum(self.expected(agent, rollouts) for agent in dict.fromkeys(agents))
        self._reserve = min(tokens, max(0.0, self._budget.left("tokens")))
        self._budget.reserve(tokens=self._reserve)
        if self._reserve < tokens and len(agents) == 1:
            raise UsageError(
                f"--budget tokens={self._budget.limit.amounts['tokens']:g} is too small: the first agent took "
                f"{self._budget.spent['tokens']:,.0f}, and the sealed report on it takes about {tokens:,.0f}"
            )

    def release(self) -> None:
        """Give back what was set aside for the sealed report."""
        self._budget.settle({"tokens": self._reserve}, {})
        self._reserve = 0.0
