"""Evidence, the input of an improver: trajectories and scores boiled down to a frozen, JSON-like value.

Everything an agent produced (answers, messages, logs) is data from a hostile source. All that guides the search is
measured on ``search``. Of ``gate`` there are verdicts only: an improver that could climb the gate's own figures would
spoil it. Of ``sealed`` there is nothing. Rewards and gains are in units of the metric, negated where it is minimised.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from sia_core.decision import Training
from sia_core.errors import LedgerError, excerpt
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.values import LARGEST_REWARD, Metric

WORST_CASES = 12
MOST_COUNTED = 2**53  # of tokens or seconds, say: what every reader of JSON holds exactly


class Evaluated(NamedTuple):
    """The score of an answer that a rollout had evaluated: ``reward``, whether it is ``valid``, and ``feedback``."""

    reward: float
    valid: bool
    feedback: str = ""


@dataclass(frozen=True)
class Rollout:
    """One agent on one ``instance``, by id, once. ``outcome`` is ``ok`` for a valid answer, else the class of failure.

    ``reward`` is a failure's where there is no valid answer. ``answer`` is its raw JSON text, ``message`` says what
    went wrong, ``feedback`` and ``metrics`` are the verifier's, ``log`` what the harness wrote, ``seconds`` the time of
    ``solve``. ``step_rewards`` are the harness's own, untrusted. ``tokens`` are the policy's, read and sampled;
    ``turns`` what it was asked and said, cut to size, where an improver may read it. ``start`` names the earlier answer
    that it began with, and ``evaluated`` are the scores it got on the way.
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
    tokens: int = 0
    turns: tuple[Mapping[str, Any], ...] = ()
    start: str | None = None
    evaluated: tuple[Evaluated, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rollout:
        """A rollout as :meth:`to_json` writes it. LedgerError for one that no run records."""
        try:
            rewards, turns = tuple(value["step_rewards"]), tuple({**each} for each in value.get("turns", ()))
            evaluated = tuple(Evaluated(*each) for each in value.get("evaluated", ()))
            its = cls(**{**value, "step_rewards": rewards, "turns": turns, "evaluated": evaluated})
            if its.outcome == "ok" and its.answer is not None:
                json.loads(its.answer, parse_constant=int)  # a later rollout may begin with it; NaN is no int
            texts = [its.instance, its.message, its.feedback, its.log, its.answer or "", its.start or ""]
            typed = all(isinstance(each, str) for each in (*texts, *(each.feedback for each in evaluated)))
            spent = type(its.tokens) is int and all(0 <= each <= MOST_COUNTED for each in (its.tokens, its.seconds))
            figures = (its.reward, *its.metrics.values(), *(each.reward for each in evaluated))
            sane = spent and all(map(math.isfinite, rewards)) and all(abs(each) <= LARGEST_REWARD for each in figures)
            if not (re.fullmatch("[a-z-]{1,80}", its.outcome) and typed and sane):
                raise ValueError(f"reward {its.reward!r}, outcome {its.outcome!r}")
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise LedgerError(f"a rollout is recorded which no run records: {excerpt(str(error), 200)}") from None
        return its

    def to_json(self) -> dict[str, Any]:
        """The fields as the ledger keeps them."""
        return asdict(self)


@dataclass(frozen=True)
class RewardStats:
    """How rewards are distributed, for the choice of lever and algorithm. A group is the rollouts of one instance.

    ``mean`` and ``deviation`` (the population's) are over all ``rollouts``, a number, as is ``instances``.
    ``success_rate`` is the share of rollouts at the best reward seen, if that is better than a failure's; ``level``,
    from 0 to 1, how much of the way from a failure's reward to that best one the mean has come; ``density`` the share
    that differs from the failure reward; ``skew`` the standardised third moment; ``binary``, that at most two different
    rewards occur; ``stepwise``, that harnesses gave rewards for steps. ``group_size`` is the mean number of rollouts of
    a group; ``flat_groups`` the share of the groups of several rollouts in which all earned the same, None where there
    is no such group; ``silent_groups`` the share of groups in which none earned more than a failure. ``ordinal`` says
    that only the order of rewards means something; ``kl_to_base`` is KL(policy || base) in nats per token, None where
    it is not known.
    """

    rollouts: int
    instances: int
    mean: float
    deviation: float
    success_rate: float
    level: float
    density: float
    skew: float
    group_size: float
    flat_groups: float | None
    silent_groups: float
    binary: bool
    stepwise: bool
    ordinal: bool = False
    kl_to_base: float | None = None


@dataclass(frozen=True)
class FailureClass:
    """The rollouts that failed with one ``outcome``: their ``count``, and a message as an ``example``."""

    outcome: str
    count: int
    example: str


@dataclass(frozen=True)
class Summary:
    """One agent on the search sample: its ``stats``, ``failures``, most frequent first, and ``worst`` cases, JSON."""

    stats: RewardStats
    failures: tuple[FailureClass, ...]
    worst: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TaskView:
    """A task's ``name``, ``kind``, ``brief`` and ``metric``, its own harness ``seed``, and its ``public`` folder."""

    name: str
    kind: str
    brief: str
    metric: Metric
    seed: HarnessTree
    public: Path


@dataclass(frozen=True)
class AgentView:
    """An agent of the archive. ``search`` is what it did on the search sample, None before it was rolled out there.

    ``harness`` is the digest of its ``files``, ``adapter`` that of its trained weights, None for the base or no policy.
    ``parent`` is the id of the agent that it was made from, None for the first; ``edits`` are the names of all changes
    since that first one. ``exploration`` is how its rewards are distributed over groups of rollouts at the training
    temperature, on a few search instances; None where no policy can be trained.
    """

    id: str
    harness: str
    adapter: str | None
    parent: str | None
    files: HarnessTree
    edits: tuple[str, ...]
    search: Summary | None = None
    exploration: RewardStats | None = None

    @property
    def estimate(self) -> float:
        """Its mean reward on the search sample; minus infinity before there is one."""
        return self.search.stats.mean if self.search else -math.inf


@dataclass(frozen=True)
class Trial:
    """A decision of an earlier ``generation``: its ``name``, ``reason`` and ``predicted`` gain, and what came of it.

    ``outcome`` is ``promoted`` or ``rejected`` by the gate, ``screened`` out before it by the search sample, ``failed``
    (it did not run, or hung), or ``refused`` before anything was spent; ``why`` says so in words. ``gain`` is the
    change of the mean reward on the search sample against ``parent``, None where it was not measured; ``agent`` the id
    that it has in the archive, None where it has none; ``against`` the incumbent that the gate compared it with.
    ``table`` is what the selection table said of the parent then, whichever ``algorithm`` (None for other levers) was
    chosen.
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
    table: str = ""
    against: str | None = None


@dataclass(frozen=True)
class AlgorithmView:
    """A learner, by ``name``, that the run's engine can train with; ``needs`` are the abilities that this takes.

    By agent: ``objections``, why it would learn nothing there, ``training``, how it is
    best trained there, and ``costs``, the rollouts, tokens, seconds and bytes of that.
    """

    name: str
    summary: str
    needs: tuple[str, ...] = ()
    objections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    training: Mapping[str, Training] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsView:
    """The weight lever: why it is ``refused``; empty if it can be pulled."""

    refused: str = ""


@dataclass(frozen=True)
class LeverView:
    """A plugin's lever in a ``text``: what it does, and what ``PullLever.settings`` it takes; ``data`` is JSON."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """The argument of ``decide``. A pure value: the same evidence leads to the same decisions.

    ``generation`` counts from 0, ``seed`` is the run's, ``brief``, ``metric`` and ``playbook`` (None without one) are
    the task's. ``levers`` names those that may be pulled. ``agents`` is the archive by id, ``incumbent`` the one to
    beat, ``trials`` all earlier decisions in order. At most ``candidates`` decisions are taken. ``smallest_gain`` is
    the least true gain that the gate promotes four times out of five: in units of the reward, or of instances won less
    those lost as a share where the metric has no bounds. ``budget_left`` has the kinds that are limited, such as
    ``rollouts`` and ``dollars``; ``look`` is what looking at one candidate takes of them, beside what applying its
    lever takes. ``algorithms`` are the learners; ``weights`` is None where the run has no policy to train, ``about``
    describes the levers of plugins by name. It ``discovers`` where the best answer is the result.
    """

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
    look: Mapping[str, float] = field(default_factory=dict)
    algorithms: tuple[AlgorithmView, ...] = ()
    weights: WeightsView | None = None
    discovers: bool = False
    about: Mapping[str, LeverView] = field(default_factory=dict)

    def with_lever(self, name: str, text: str, data: Mapping[str, Any] | None = None) -> Evidence:
        """The same evidence with a lever's description."""
        return replace(self, about={**self.about, name: LeverView(text, data or {})})


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


def reward_stats(
    rollouts: Sequence[Rollout], failure_reward: float, *, ordinal: bool = False, kl_to_base: float | None = None
) -> RewardStats:
    """The statistics of the rewards of at least one rollout; ``ordinal`` is the metric's."""
    rewards = [each.reward for each in rollouts]
    by_instance: dict[str, list[float]] = {}
    for each in rollouts:
        by_instance.setdefault(each.instance, []).append(each.reward)
    groups = list(by_instance.values())
    several = [group for group in groups if len(group) > 1]
    mean, deviation, best = fmean(rewards), pstdev(rewards), max(rewards)
    span = best - failure_reward
    return RewardStats(
        rollouts=len(rewards),
        instances=len(groups),
        mean=mean,
        deviation=deviation,
        success_rate=fmean(reward >= best > failure_reward for reward in rewards),
        level=min(max(0.0, (mean - failure_reward) / span), 1.0) if span > 0 else 0.0,
        density=fmean(reward != failure_reward for reward in rewards),
        skew=fmean(((reward - mean) / deviation) ** 3 for reward in rewards) if deviation else 0.0,
        group_size=len(rewards) / len(groups),
        flat_groups=fmean(len(set(group)) == 1 for group in several) if several else None,
        silent_groups=fmean(max(group) <= failure_reward for group in groups),
        binary=len(set(rewards)) <= 2,
        stepwise=any(each.step_rewards for each in rollouts),
        ordinal=ordinal,
        kl_to_base=kl_to_base,
    )


def _case(rollout: Rollout) -> Mapping[str, Any]:
    texts = {name: excerpt(getattr(rollout, name) or "") for name in ("answer", "message", "feedback", "log")}
    return {"instance": rollout.instance, "outcome": rollout.outcome, "reward": rollout.reward, **texts}
