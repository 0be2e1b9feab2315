"""Levers: the ways in which a run changes an agent.

A plugin offers one by the hook ``sia_levers``, and ``sia run --levers NAME`` has a run pull it. The core's own is
``harness``. All candidates are rolled out, gated and reported alike: a lever only says which agent a decision makes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sia_core.decision import RewriteHarness
from sia_core.errors import HarnessError
from sia_core.evidence import AgentView, Evidence, Rollout
from sia_core.harness import HarnessTree, apply_edits
from sia_core.run.budget import Cost

if TYPE_CHECKING:
    from sia_core.plugins import Plugins
    from sia_core.run.allowance import Allowance
    from sia_core.run.budget import Budget
    from sia_core.run.ledger import Ledger
    from sia_core.run.observe import Emitter
    from sia_core.run.rollouts import Rollouts
    from sia_core.run.trees import Trees
    from sia_core.types import Json, Task


@dataclass(frozen=True)
class LeverRun:
    """The run that a lever works in, with its ``task``, ``plugins`` and ``budget``, and ``emit`` for its observers.

    ``search`` are the instances of the search sample, on which agents are estimated, ``training`` those to learn from,
    ``can`` the abilities of the run's engine, ``starts`` the earlier answers from which that many rollouts may begin,
    in a task to ``discover``. Work with an effect is a step of the ``ledger``, so that a resumed run does not repeat
    it; harnesses lie in ``trees``, and work for a machine of the run is a job of ``rollouts``.
    """

    task: Task
    plugins: Plugins
    ledger: Ledger
    trees: Trees
    rollouts: Rollouts
    budget: Budget
    emit: Emitter
    search: tuple[str, ...]
    training: tuple[str, ...]
    can: frozenset[str]
    starts: Callable[[int], tuple[Json, ...]]


@dataclass(frozen=True)
class NewAgent:
    """The parts of a new agent: its harness, ``files``, and the digest of its ``adapter``, None for the base."""

    files: HarnessTree
    adapter: str | None


@dataclass(frozen=True)
class PullPlan:
    """A lever's answer to a decision, before anything is spent on it.

    It is ``refused`` for a reason, or makes an ``agent`` at once, or has still to be applied at about an ``estimate``:
    rollouts, verifications, tokens, seconds, and bytes of memory. ``table`` says what spoke for the decision.
    """

    refused: str = ""
    agent: NewAgent | None = None
    estimate: Mapping[str, float] = field(default_factory=dict)
    table: str = ""

    @property
    def cost(self) -> Cost:
        """The estimate as a budget reserves it; tokens are handed out as an allowance."""
        return Cost(self.estimate.get("rollouts", 0.0), self.estimate.get("verifications", 0.0))


@dataclass(frozen=True)
class Pull:
    """A ``decision`` on ``parent`` that is applied by its ``plan``, as a ``candidate`` (from 0) of a ``generation``.

    The lever's steps in the ledger begin with ``key``.
    """

    generation: int
    candidate: int
    decision: Any
    parent: AgentView
    plan: PullPlan
    key: str


@dataclass(frozen=True)
class PullResult:
    """The result of applying a decision: an ``agent``, or why it ``failed``.

    ``stopped`` says why it ended early, if it did. The budget counts what was ``spent`` (rollouts and
    verifications); ``took`` stands beside the estimate in the report. The answers of ``rollouts``
    count among the run's, in a task to ``discover``.
    """

    agent: NewAgent | None = None
    failed: str = ""
    stopped: str = ""
    spent: Mapping[str, float] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)
    rollouts: tuple[Rollout, ...] = ()


@dataclass(frozen=True)
class Looked:
    """An ``agent`` after a lever looked at it, and the rollouts and verifications ``spent`` on that."""

    agent: AgentView
    spent: Mapping[str, float] = field(default_factory=dict)


class Lever(ABC):
    """A way to change an agent. Its factory takes the settings that a run has for it; a lever is made once a run.

    The two costs are asked of it before the run begins. All that it says and does later follows
    from its arguments and from what the ledger recorded, so that a run can be resumed and replayed.
    """

    exclusive: bool = False
    """True for a lever that needs the run's policy to itself: then no two candidates are tried at once."""

    def look_cost(self, instances: int) -> Cost:
        """The most that :meth:`look` takes for an agent, with a search sample of this size."""
        return Cost()

    def pull_cost(self, instances: int, suits: int = 0) -> Cost:
        """The cost of applying a usual decision, with a search sample of this size.

        ``suits`` is the number of rollouts that an update of the run's policy is worth, as its engine says; 0 where
        it does not say, or no policy is loaded yet.
        """
        return Cost()

    def begin(self, run: LeverRun) -> None:
        """Called once, before anything else of the run."""
        self.run = run

    @property
    def refused(self) -> str:
        """Why it cannot be pulled in this run; empty if it can."""
        return ""

    def look(self, agent: AgentView, allowance: Allowance) -> Looked:
        """Look at an agent that may be changed next: the incumbent, one that earned more on search, or one to pull on.

        It is looked at once, and never where the budget is too small for that.
        """
        return Looked(agent)

    def describe(self, evidence: Evidence) -> Evidence:
        """The evidence with what improvers should know of the lever; see :meth:`Evidence.with_lever`.

        It is asked before each decision, and holds every agent that a decision may name.
        """
        return evidence

    def objection(self, decision: Any) -> str:
        """Why a decision would be refused whatever its parent is, such as wrong settings; empty if it would not."""
        return ""

    @abstractmethod
    def plan(self, decision: Any, parent: AgentView) -> PullPlan:
        """Plan a decision on its parent: a ``RewriteHarness``, an ``UpdateWeights``, else a ``PullLever``."""

    def apply(self, pull: Pull, allowance: Allowance) -> PullResult:
        """Make the agent of a plan that has none yet, with these tokens at most."""
        raise NotImplementedError("its plans hold their agents")


class HarnessLever(Lever):
    """Makes the agent at once: edits cost nothing."""

    def plan(self, decision: RewriteHarness, parent: AgentView) -> PullPlan:
        try:
            return PullPlan(agent=NewAgent(apply_edits(parent.files, decision.edits), parent.adapter))
        except HarnessError as error:
            return PullPlan(refused=f"edit refused: {error}")
