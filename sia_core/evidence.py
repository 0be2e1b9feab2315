"""Evidence: what an improver reads. Trajectories and scores in, a frozen, JSON-like value out.

Everything an agent produced (answers, messages, logs) is data from a hostile
source. All that guides the search is measured on ``search``. Of ``gate`` there are
verdicts only: an improver that could climb the gate's own figures would spoil it.
Of ``sealed`` there is nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Metric

WORST_CASES = 12
EXCERPT = 600


@dataclass(frozen=True)
class Rollout:
    """One agent on one instance, once, and its score. ``outcome`` is ``ok``, or the class of its failure.

    ``answer`` is the raw JSON text of the answer; ``step_rewards`` are the
    harness's own, untrusted.
    """

    instance: str
    outcome: str
    reward: float
    answer: str | None = None
    message: str = ""
    feedback: str = ""
    log: str = ""
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    step_rewards: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rollout:
        return cls(**{**value, "step_rewards": tuple(value["step_rewards"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RewardStats:
    """How rewards are distributed, for the choice of lever and algorithm.

    ``success_rate`` is the share of rollouts at the best reward seen, if that is
    better than a failure's; ``density`` the share that differs from the failure
    reward, ``skew`` the standardised third moment, ``flat_groups`` the share of
    instances whose rollouts all earned the same.
    """

    rollouts: int
    instances: int
    mean: float
    deviation: float
    success_rate: float
    density: float
    skew: float
    flat_groups: float
    stepwise: bool


@dataclass(frozen=True)
class FailureClass:
    """A class of failed rollouts: how many, and one message as an example."""

    outcome: str
    count: int
    example: str


@dataclass(frozen=True)
class Summary:
    """What one agent did on a sample of the search split."""

    stats: RewardStats
    failures: tuple[FailureClass, ...]
    worst: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TaskView:
    """What an improver may know of a task: ``seed`` is its own harness, ``public`` the folder that harnesses read."""

    name: str
    kind: str
    brief: str
    metric: Metric
    seed: HarnessTree
    public: Path


@dataclass(frozen=True)
class AgentView:
    """An agent of the archive, with what it did on the search sample once it was rolled out there."""

    id: str
    harness: str
    adapter: str | None
    parent: str | None
    files: HarnessTree
    edits: tuple[str, ...]
    search: Summary | None = None

    @property
    def estimate(self) -> float:
        """Its mean reward on the search sample; minus infinity before there is one."""
        return self.search.stats.mean if self.search else -math.inf


@dataclass(frozen=True)
class Trial:
    """An earlier decision, what it predicted, and what came of it.

    ``outcome`` is ``promoted`` or ``rejected`` by the gate, ``failed`` (it did not run,
    or hung), or ``refused`` before anything was spent. ``gain`` is the change of the
    mean reward on the search sample against its own parent.
    """

    generation: int
    lever: str
    name: str
    algorithm: str | None
    parent: str
    agent: str | None
    reason: str
    predicted: float
    outcome: str
    why: str
    gain: float | None


@dataclass(frozen=True)
class Evidence:
    """What ``decide`` is given. A pure value: the same evidence, the same decisions."""

    generation: int
    seed: int
    brief: str
    metric: Metric
    levers: tuple[str, ...]
    incumbent: str
    agents: Mapping[str, AgentView]
    trials: tuple[Trial, ...]
    playbook: Playbook | None
    candidates: int
    smallest_gain: float
    budget_left: Mapping[str, float]


def summarise(rollouts: Sequence[Rollout], failure_reward: float) -> Summary:
    """Boil rollouts on the search split down to statistics, failure classes and worst cases."""
    failed = [each for each in rollouts if each.outcome != "ok"]
    classes = Counter(each.outcome for each in failed)
    example = {each.outcome: each.message for each in reversed(failed)}
    worst = sorted(rollouts, key=lambda each: (each.reward, each.instance))[:WORST_CASES]
    best = max(each.reward for each in rollouts)
    return Summary(
        stats=reward_stats(rollouts, failure_reward),
        failures=tuple(FailureClass(name, n, excerpt(example[name])) for name, n in classes.most_common()),
        worst=tuple(_case(each) for each in worst if each.reward < best),
    )


def reward_stats(rollouts: Sequence[Rollout], failure_reward: float) -> RewardStats:
    """The statistics of the rewards; groups are the rollouts of one instance."""
    rewards = [each.reward for each in rollouts]
    groups: dict[str, set[float]] = {}
    for each in rollouts:
        groups.setdefault(each.instance, set()).add(each.reward)
    mean, deviation, best = fmean(rewards), pstdev(rewards), max(rewards)
    return RewardStats(
        rollouts=len(rewards),
        instances=len(groups),
        mean=mean,
        deviation=deviation,
        success_rate=fmean(reward >= best > failure_reward for reward in rewards),
        density=fmean(reward != failure_reward for reward in rewards),
        skew=fmean(((reward - mean) / deviation) ** 3 for reward in rewards) if deviation else 0.0,
        flat_groups=fmean(len(values) == 1 for values in groups.values()),
        stepwise=any(each.step_rewards for each in rollouts),
    )


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """The text cut to size, saying how much was cut."""
    return text if len(text) <= limit else f"{text[:limit]} [... {len(text) - limit:,} more characters]"


def _case(rollout: Rollout) -> Mapping[str, Any]:
    return {
        "instance": rollout.instance,
        "outcome": rollout.outcome,
        "reward": rollout.reward,
        "answer": excerpt(rollout.answer or ""),
        "message": excerpt(rollout.message),
        "feedback": excerpt(rollout.feedback),
        "log": excerpt(rollout.log),
    }
