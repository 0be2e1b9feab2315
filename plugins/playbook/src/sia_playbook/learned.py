"""A choice that learns: lever and algorithm by a contextual bandit over what they earned in all earlier runs.

LinUCB with disjoint arms (Li, Chu, Langford and Schapire 2010, algorithm 1). An arm is the
harness lever or a learner; its context is how the parent's rewards were distributed; its
reward is the change on the gate that a promotion won, as a share of the reward's range, and
nothing where there was none. Earlier runs are read before the first decision, from the
folders of a store. Of them only search statistics and gate outcomes are looked at, never
a sealed score.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from sia_core.decision import Prediction, RewriteHarness, Stop, UpdateWeights
from sia_core.evidence import AgentView, Evidence, RewardStats, TaskView
from sia_core.harness import HarnessTree
from sia_core.run.record import RunRecord
from sia_playbook.earlier_runs import explored, folders_of, read_runs, searched
from sia_playbook.edits import EditArm, edits
from sia_playbook.references import updates_of

_LOG = logging.getLogger(__name__)

HARNESS = "harness"
WIDTH = 0.2
"""The weight of what is not known of an arm beside what it is expected to earn, in shares of the reward's range."""

Context = tuple[float, ...]


@dataclass(frozen=True)
class Lesson:
    """An arm's reward in a context."""

    arm: str
    context: Context
    reward: float


def context_of(stats: RewardStats) -> Context:
    """The features of an agent's rewards, each about 0 to 1."""
    return (
        1.0,
        stats.level,
        stats.density,
        stats.success_rate,
        math.tanh(stats.skew / 4),
        stats.silent_groups,
        float(stats.binary),
    )


class Ridge:
    """One arm's expected reward, by ridge regression on its lessons; of an unknown one, 0."""

    def __init__(self, size: int) -> None:
        self._inverse = [[float(row == column) for column in range(size)] for row in range(size)]
        self._sum = [0.0] * size
        self.lessons = 0

    def learn(self, context: Context, reward: float) -> None:
        """One lesson more; the inverse by Sherman and Morrison (1950)."""
        pulled = [_dot(row, context) for row in self._inverse]
        scale = 1 + _dot(pulled, context)
        self._inverse = [
            [value - a * b / scale for value, b in zip(row, pulled, strict=True)]
            for row, a in zip(self._inverse, pulled, strict=True)
        ]
        self._sum = [value + reward * x for value, x in zip(self._sum, context, strict=True)]
        self.lessons += 1

    def expects(self, context: Context) -> tuple[float, float]:
        """The mean, and how far it may be off."""
        pulled = [_dot(row, context) for row in self._inverse]
        return _dot(pulled, self._sum), WIDTH * math.sqrt(max(0.0, _dot(pulled, context)))


class Learned:
    """The improver ``learned``. ``runs`` are folders of earlier runs, separated by commas."""

    def __init__(self, runs: str = "runs") -> None:
        self._folders = folders_of(runs)

    @cached_property
    def _lessons(self) -> list[Lesson]:
        return list(read_runs(self._folders, lessons_of, _LOG.warning))

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | UpdateWeights | Stop]:
        """The arm that is worth most comes first; where it is the harness, as many edits as the run tries at once."""
        agent = evidence.agents[evidence.incumbent]
        options = edits(evidence) if "harness" in evidence.levers else ""
        chance = random.Random(f"learned {evidence.seed} {evidence.generation}")
        updates = {each.algorithm: each for each in updates_of(evidence, agent, chance)}
        arms = [*([HARNESS] if isinstance(options, list) else []), *updates]
        if not arms:
            return [Stop(reason=f"nothing that applies is left untried{f'; {options}' if options else ''}")]
        ridges, context = self._ridges(evidence), context_of(_stats(agent))
        expected = {arm: ridges.get(arm, Ridge(len(context))).expects(context) for arm in arms}
        ranked = sorted(arms, key=lambda arm: -sum(expected[arm]))
        summary = "; ".join(
            f"{arm} {mean:+.3f} ± {width:.3f} from {ridges[arm].lessons if arm in ridges else 0} lessons"
            for arm, (mean, width) in expected.items()
        )
        reason = f"By what each earned where rewards were distributed alike: {summary}."
        picks: list[RewriteHarness | UpdateWeights] = []
        for arm in ranked:
            gain = round(expected[arm][0] * _span(evidence), 4)
            if arm == HARNESS and isinstance(options, list):
                picks += [_edit(each, reason, gain) for each in _best(options, chance)]
            elif arm != HARNESS:
                picks.append(updates[arm].model_copy(update={"reason": reason, "prediction": Prediction(gain=gain)}))
        return _one_update(picks)[: evidence.candidates]

    def _ridges(self, evidence: Evidence) -> dict[str, Ridge]:
        """Each arm's regression after all earlier runs and this run's own trials."""
        ridges: dict[str, Ridge] = {}
        for lesson in (*self._lessons, *_own(evidence)):
            ridges.setdefault(lesson.arm, Ridge(len(lesson.context))).learn(lesson.context, lesson.reward)
        return ridges


def lessons_of(record: RunRecord) -> list[Lesson]:
    """The lessons of a run."""
    contexts = cache(lambda agent: _context(record, agent))
    lessons = []
    # Of a run that recorded no bounds, a gain is cut to what rewards from 0 to 1 could have won.
    low, high = (record.run and record.run["metric"].get("bounds")) or (0.0, 1.0)
    for row in record.candidates():
        context, gate = contexts(str(row["parent"])), row["gate"]
        if context and (gate or row["outcome"] == "screened"):
            won = min(1.0, max(0.0, float(gate["delta"])) / (high - low)) if gate and row["accepted"] else 0.0
            lessons.append(Lesson(str(row["algorithm"] or HARNESS), context, won))
    return lessons


def _context(record: RunRecord, agent: str) -> Context | None:
    """How an agent's rewards were distributed, as the improver of that run was shown them."""
    stats = explored(record, agent) or searched(record, agent)
    return context_of(stats) if stats else None


def _own(evidence: Evidence) -> Iterator[Lesson]:
    """This run's trials so far; what they won is known on search alone."""
    for trial in evidence.trials:
        if trial.outcome in ("promoted", "rejected", "screened") and trial.parent in evidence.agents:
            won = max(0.0, trial.gain or 0.0) / _span(evidence) if trial.outcome == "promoted" else 0.0
            context = context_of(_stats(evidence.agents[trial.parent]))
            yield Lesson(trial.algorithm or HARNESS, context, min(1.0, won))


def _stats(agent: AgentView) -> RewardStats:
    """As a policy would learn from them, where that is known."""
    if agent.exploration:
        return agent.exploration
    assert agent.search is not None  # every agent of the archive was rolled out
    return agent.search.stats


def _best(arms: Sequence[EditArm], chance: random.Random) -> list[EditArm]:
    """Edits, best first by what their kind earned in this run; ties in random order."""
    shuffled = chance.sample(arms, len(arms))
    return sorted(shuffled, key=lambda arm: -arm.belief.value)


def _edit(arm: EditArm, reason: str, gain: float) -> RewriteHarness:
    return arm.decision().model_copy(update={"reason": f"{reason} {arm.reason}", "prediction": Prediction(gain=gain)})


def _one_update(picks: Sequence[RewriteHarness | UpdateWeights]) -> list[RewriteHarness | UpdateWeights]:
    """At most one update a generation: it needs the policy to itself."""
    first = next((each for each in picks if isinstance(each, UpdateWeights)), None)
    return [each for each in picks if not isinstance(each, UpdateWeights) or each is first]


def _span(evidence: Evidence) -> float:
    return evidence.metric.span


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
