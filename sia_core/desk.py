"""What a run hands to an improver that asks a language model: paid calls, and a closer look at what was recorded.

An improver that has a method ``equip(desk)`` is given a :class:`Desk` before the run
starts. All that it reads there is of the search split and of the public files; of the
gate there are verdicts only, as in the evidence, and of the sealed split there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sia_core.allowance import Allowance
from sia_core.budget import Budget
from sia_core.calls import CALLS, Calls
from sia_core.candidate import Parts
from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.ledger import Ledger
from sia_core.models import Provider
from sia_core.plan import Cost, Samples
from sia_core.rollout import GivenUp, Sweep, verified
from sia_core.types import Instance, Kind

CHECKED = 10
"""Search instances that a check of a harness runs."""

SHARE = 10
"""A check may use this part of the tokens that are left."""


@runtime_checkable
class Equipped(Protocol):
    """An improver that works with a desk."""

    def check(self) -> None:
        """UsageError where it could not ask, such as without a key; called before anything is made or spent."""

    def equip(self, desk: Desk) -> None:
        """Called once, before ``draft``."""


@dataclass(frozen=True)
class Checked:
    """What a harness did on a few search instances; ``stopped`` says why not on all of them, if so.

    ``short`` says that it was for want of tokens, which is no fault of the harness.
    """

    rollouts: Sequence[Rollout]
    stopped: str = ""
    short: bool = False


def equip(parts: Parts, samples: Samples) -> None:
    """Hand the run's improver its desk, if it works with one."""
    if isinstance(parts.improver, Equipped):
        parts.improver.equip(Desk(parts, samples))


def booked(ledger: Ledger, budget: Budget, key: str, work: Callable[[], Any]) -> Any:
    """A step whose work spends on its own; what that was is recorded too, for a resumed run to book."""
    worked = False

    def working() -> Any:
        nonlocal worked
        worked, before = True, budget.spent
        value = work()
        spent = {kind: amount - before[kind] for kind, amount in budget.spent.items() if amount != before[kind]}
        if spent:
            ledger.step(f"{key}/spent", lambda: spent)
        return value

    value = ledger.step(key, working)
    if not worked:
        budget.settle({}, (ledger.get(f"{key}/spent") or ({},))[0])
    return value


class Desk:
    """One run's. Its methods give the same when a run is resumed: what they rest on is recorded."""

    def __init__(self, parts: Parts, samples: Samples) -> None:
        self._parts, self._samples = parts, samples
        self._began: Mapping[str, float] = {}

    @property
    def budget(self) -> Budget:
        return self._parts.budget

    def calls(self, provider: Provider, **settings: Any) -> Calls:
        """Paid calls through the run's ledger and budget."""
        return Calls(provider, self._parts.ledger, self._parts.budget, self.notice, **settings)

    def notice(self, text: str) -> None:
        """Tell whoever watches the run."""
        self._parts.emit("model.notice", text=text)

    @property
    def kind(self) -> Kind:
        """What kind of task the run is of."""
        return self._parts.task.kind

    @property
    def public(self) -> Path:
        """The folder that harnesses read."""
        return self._parts.task.public_dir(("public",))

    @cached_property
    def instances(self) -> Mapping[str, Instance]:
        """The search instances by id."""
        return {each.id: each for each in self._parts.task.instances("search")}

    def rollouts(self, agent: str) -> list[Rollout]:
        """What an agent of the archive did on the search sample, with its turns."""
        batches = [batch for _, batch, _ in self._parts.ledger.events(f"rollouts/search/{agent}/")]
        return [Rollout.from_json(each) for batch in batches for each in batch["rollouts"]]

    def rewards(self, agent: str) -> dict[str, float]:
        """What an agent of the archive earned on the search sample, by instance."""
        return {each.instance: each.reward for each in self.rollouts(agent)}

    def check(self, tree: HarnessTree, adapter: str | None) -> Checked:
        """Run a harness in the sandbox on a few search instances; BudgetExhausted where that does not fit."""
        parts = self._parts
        name = parts.trees.put(tree)
        instances = self._samples.search[:CHECKED]
        agent = f"{name[:12]}-{(adapter or 'base')[:12]}"
        sweep = Sweep("check", agent, name, "search", instances, hasty=True, adapter=adapter)
        drafting = parts.ledger.get("draft") is None
        kept = self._samples.look(explores=parts.weights is not None) if drafting else Cost()  # the first agent's
        reserved = (Cost(len(instances), len(instances)) + kept).kinds
        parts.budget.reserve(**reserved)
        allowance = Allowance(parts.budget.left("tokens") / SHARE)
        done: list[Rollout] = []
        stopped, short = "", False
        try:
            done += parts.rollouts.run(sweep, allowance)
        except GivenUp as error:
            done += error.done
            stopped, short = str(error), error.short
        finally:
            spent = {"rollouts": len(done), "verifications": verified(done), "tokens": allowance.spent}
            parts.budget.settle(reserved, spent)
        return Checked(done, stopped, short)

    def decided(self, generation: int, candidate: int) -> dict[str, Any] | None:
        """An earlier decision as it was typed, with its diff; None where there was none."""
        decisions = self._parts.ledger.get(f"generation/{generation}/decide")
        changes = [each for each in decisions[0] if each["lever"] != "stop"] if decisions else []
        if not 0 <= candidate < len(changes):
            return None
        diff = self._parts.ledger.get(f"generation/{generation}/diff/{candidate}")
        return {**changes[candidate], "diff": diff[0] if diff else ""}

    def begin(self, of: str) -> str:
        """The name of a conversation's calls; a new one after each time that it was given up, which is booked."""
        given_up = [row for _, row, _ in self._parts.ledger.events(f"{CALLS}given-up/{of}/")]
        for row in given_up:
            self._parts.budget.settle({}, row["spent"])
        self._began = self._parts.budget.spent
        return f"{of}/{len(given_up)}"

    def give_up(self, purpose: str, why: str) -> None:
        """Record that a conversation led nowhere, and what it cost, so that a resumed run begins it anew."""
        spent = {kind: amount - self._began.get(kind, 0.0) for kind, amount in self._parts.budget.spent.items()}
        self._parts.ledger.record(f"{CALLS}given-up/{purpose}", {"why": why, "spent": spent})
