"""A choice that learns: lever and algorithm by a contextual bandit over what they earned in all earlier runs.

LinUCB with disjoint arms (Li, Chu, Langford and Schapire 2010, algorithm 1). An arm is the
harness lever or a learner; its context is how the parent's rewards were distributed; its
reward is the change on the gate that a promotion won, as a share of the reward's range, and
nothing where there was none. Earlier runs are read when the improver is made, from the
folders of a store. Of them only search statistics and gate outcomes are looked at, never
a sealed score.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sia_core.decision import Prediction, RewriteHarness, Stop, UpdateWeights
from sia_core.errors import LedgerError
from sia_core.evidence import AgentView, Evidence, RewardStats, Rollout, TaskView, reward_stats
from sia_core.harness import HarnessTree
from sia_core.ledger import Ledger
from sia_core.running import runs_in
from sia_playbook.edits import EditArm, edits
from sia_playbook.references import updates_of

HARNESS = "harness"
WIDTH = 0.2
"""The weight of what is not known of an arm beside what it is expected to earn, in shares of the reward's range."""

Context = tuple[float, ...]


@dataclass(frozen=True)
class Lesson:
    """What an arm earned in a context."""

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
    """What is expected of one arm, by ridge regression on its lessons; of an unknown one, nothing."""

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
        self._lessons = [lesson for folder in runs.split(",") for lesson in lessons_of(Path(folder.strip()))]

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The task's seed harness, as it is."""
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | UpdateWeights | Stop]:
        """The arm that is worth most comes first; where it is the harness, as many edits as the run tries at once."""
        agent = evidence.agents[evidence.incumbent]
        found = edits(evidence) if "harness" in evidence.levers else ""
        chance = random.Random(f"learned {evidence.seed} {evidence.generation}")
        updates = {each.algorithm: each for each in updates_of(evidence, agent, chance)}
        arms = [*([HARNESS] if isinstance(found, list) else []), *updates]
        if not arms:
            return [Stop(reason=f"nothing that applies is left untried{f'; {found}' if found else ''}")]
        ridges, context = self._ridges(evidence), context_of(_stats(agent))
        expected = {arm: ridges.get(arm, Ridge(len(context))).expects(context) for arm in arms}
        ranked = sorted(arms, key=lambda arm: -sum(expected[arm]))
        told = "; ".join(
            f"{arm} {mean:+.3f} ± {width:.3f} from {ridges[arm].lessons if arm in ridges else 0} lessons"
            for arm, (mean, width) in expected.items()
        )
        reason = f"By what each earned where rewards were distributed alike: {told}."
        chosen: list[RewriteHarness | UpdateWeights] = []
        for arm in ranked:
            gain = round(expected[arm][0] * _span(evidence), 4)
            if arm == HARNESS and isinstance(found, list):
                chosen += [_edit(each, reason, gain) for each in _best(found, chance)]
            elif arm != HARNESS:
                chosen.append(updates[arm].model_copy(update={"reason": reason, "prediction": Prediction(gain=gain)}))
        return _one_update(chosen)[: evidence.candidates]

    def _ridges(self, evidence: Evidence) -> dict[str, Ridge]:
        """What is expected of each arm after all earlier runs and this one's own trials."""
        ridges: dict[str, Ridge] = {}
        for lesson in (*self._lessons, *_own(evidence)):
            ridges.setdefault(lesson.arm, Ridge(len(lesson.context))).learn(lesson.context, lesson.reward)
        return ridges


def lessons_of(store: Path) -> Iterator[Lesson]:
    """What the runs of a folder teach. One that cannot be read teaches nothing."""
    for folder in runs_in(store):
        try:
            with Ledger.read(folder) as ledger:
                rows = [row for key, row, _ in ledger.events("generation/") if "/gated/" in key]
                contexts = {parent: _context(ledger, parent) for parent in {row["parent"] for row in rows}}
        except LedgerError:
            continue
        for row in rows:
            context, gate = contexts[row["parent"]], row["gate"]
            if context and gate:
                arm = row["algorithm"] or HARNESS
                # The metric's bounds are not recorded; every task here has rewards from 0 to 1 or is cut to that.
                yield Lesson(arm, context, min(1.0, max(0.0, gate["delta"])) if row["accepted"] else 0.0)


def _context(ledger: Ledger, agent: str) -> Context | None:
    """How an agent's rewards were distributed, as the improver of that run was shown them."""
    explored = ledger.get(f"explore/{agent}")
    if explored:
        return context_of(RewardStats(**explored[0]["stats"]))
    batches = (batch for _, batch, _ in ledger.events(f"rollouts/search/{agent}/"))
    found = [Rollout.from_json(each) for batch in batches for each in batch["rollouts"]]
    failed = [each.reward for each in found if each.outcome != "ok"]
    return context_of(reward_stats(found, min(failed, default=0.0))) if found else None


def _own(evidence: Evidence) -> Iterator[Lesson]:
    """This run's trials so far; what they won is known on search alone."""
    for trial in evidence.trials:
        if trial.outcome in ("promoted", "rejected") and trial.parent in evidence.agents:
            won = max(0.0, trial.gain or 0.0) / _span(evidence) if trial.outcome == "promoted" else 0.0
            context = context_of(_stats(evidence.agents[trial.parent]))
            yield Lesson(trial.algorithm or HARNESS, context, min(1.0, won))


def _stats(agent: AgentView) -> RewardStats:
    """As a policy would learn from them, where that is known."""
    if agent.exploration:
        return agent.exploration
    assert agent.search is not None  # every agent of the archive was rolled out
    return agent.search.stats


def _best(found: Sequence[EditArm], chance: random.Random) -> list[EditArm]:
    """Edits, best first by what their kind earned in this run; ties in random order."""
    shuffled = chance.sample(found, len(found))
    return sorted(shuffled, key=lambda arm: -arm.belief.value)


def _edit(arm: EditArm, reason: str, gain: float) -> RewriteHarness:
    return arm.decision().model_copy(update={"reason": f"{reason} {arm.reason}", "prediction": Prediction(gain=gain)})


def _one_update(chosen: Sequence[RewriteHarness | UpdateWeights]) -> list[RewriteHarness | UpdateWeights]:
    """At most one update a generation: it needs the policy to itself."""
    first = next((each for each in chosen if isinstance(each, UpdateWeights)), None)
    return [each for each in chosen if not isinstance(each, UpdateWeights) or each is first]


def _span(evidence: Evidence) -> float:
    return evidence.metric.span


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
