"""The weight lever's side of the choice: which update is worth most, and what it promises.

An update can win at most what is to be won on the instances whose rollouts disagree:

    promise = share of groups with variance x (best reward in reach - reward now)

So an agent that is nearly always wrong promises little until an edit makes it right
sometimes, and one that is nearly always right promises little again. Half of the
promise is expected, give or take the same; what earlier updates won of what they
promised moves and narrows that, each weighed by what it promised and by how exactly its
gain is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sia_core.decision import Prediction, Training, UpdateWeights
from sia_core.evidence import AgentView, AlgorithmView, Evidence, RewardStats, Trial
from sia_playbook.belief import Belief, Try, own_tries, parents
from sia_weights.selection import Choice, recommend

PATIENCE = 2
"""An agent is left alone after this many updates in a row that were not promoted."""

UNSEEN = 0.5
"""Groups that may hold a success for every exploration in which none did: what is rare need not have been seen."""

OTHERS = 0.5
"""The weight of a try of another algorithm, beside 1 for the same: alike, not the same."""

NOTHING = 1e-6
"""An update that promised less than this share of another's promise says nothing of it."""

SHARE = 0.5
"""The most of what is left of a budget that an update may take where edits need some of it too."""

ALONE = 0.8
"""The same where nothing else needs any: the rest pays for looking at what was trained."""

LEAST = 0.1
"""An update that is cut to less of what its learner advises than this is not worth starting."""


@dataclass(frozen=True)
class Promise:
    """The gain that training may bring: the share of groups that disagree, and the room to the best."""

    disagree: float
    room: float

    @property
    def size(self) -> float:
        return self.disagree * self.room


@dataclass(frozen=True)
class UpdateArm:
    """An update of an agent's weights that the table calls for, and what is believed of it.

    ``before`` says what earlier updates earned; ``objections`` are those to algorithms that the table
    would have preferred.
    """

    choice: Choice
    parent: AgentView
    promise: Promise
    belief: Belief
    before: str
    objections: tuple[str, ...]
    learner: AlgorithmView
    training: Training

    @property
    def family(self) -> str:
        """All updates are alike, and like no edit, whose families have names: a generation makes one of them."""
        return ""

    @property
    def reason(self) -> str:
        """The choice, explained."""
        passed_over = "".join(f"; not {each}" for each in self.objections)
        return (
            f"By the selection table: {self.choice}{passed_over}. On agent {self.parent.id} the rollouts of "
            f"{self.promise.disagree:.0%} of the instances disagree, and the best reward in reach is "
            f"{self.promise.room:.3f} away, so an update promises {self.promise.size:.3f}; {self.before}. "
            f"Expected {self.belief}{self._cost}."
        )

    @property
    def _part(self) -> float:
        """The part of the advised training that fits the budget."""
        advised = self.learner.training[self.parent.id]
        instances = round(_instances(advised, self.learner.costs[self.parent.id]))
        return self.training.rollouts(instances) / advised.rollouts(instances)

    def looks(self, look: Mapping[str, float]) -> int:
        """The number of edits that can be looked at for the update's price, by rollouts."""
        rollouts = self.learner.costs.get(self.parent.id, {}).get("rollouts", 0.0)
        return 1 + int(self._part * rollouts / look["rollouts"]) if rollouts and look.get("rollouts") else 1

    @property
    def _cost(self) -> str:
        cost = self.learner.costs.get(self.parent.id)
        if cost is None:
            return ""
        advised, part = self.learner.training[self.parent.id], self._part
        rollouts, tokens, seconds = (part * cost[kind] for kind in ("rollouts", "tokens", "seconds"))
        cut = (self.training.steps, advised.steps, "steps")
        if cut[0] == cut[1]:
            cut = (self.training.prompts, round(_instances(advised, cost)), "instances")
        fewer = f", {cut[0]:,} of {cut[1]:,} {cut[2]}, as the budget has it" if part < 1 else ""
        limit = f", but no more than {self.training.seconds:,.0f} s" if self.training.seconds else ""
        return f", for about {rollouts:,.0f} rollouts, {tokens:,.0f} tokens and {seconds:,.0f} s{limit}{fewer}"

    def decision(self) -> UpdateWeights:
        return UpdateWeights(
            algorithm=self.choice.algorithm,
            training=self.training,
            reason=self.reason,
            prediction=Prediction(
                gain=round(self.belief.mean, 4), where="instances on which some rollouts earn more than others"
            ),
            parent=self.parent.id,
        )


def update(evidence: Evidence, earlier: Sequence[Try] = ()) -> UpdateArm | str:
    """The update of the first of the agents to change that is to be trained; or why there is none."""
    weights = evidence.weights
    if weights is None:
        return "this run has no policy to train"
    if weights.refused:
        return f"the weights cannot be updated: {weights.refused}"
    if not evidence.algorithms:
        return "no learner is on offer that this run's engine can train with"
    why = []
    for parent in (evidence.agents[each] for each in parents(evidence)):
        outcome = _arm(evidence, parent, earlier)
        if isinstance(outcome, UpdateArm):
            return outcome
        why.append(f"agent {parent.id} is not to be trained: {outcome}")
    return "; ".join(why)


def _arm(evidence: Evidence, parent: AgentView, earlier: Sequence[Try]) -> UpdateArm | str:
    """The table's first choice without objections, untried ones first; or why this agent is not to be trained."""
    if parent.exploration is None:
        return "its rollouts were not explored"
    updates = [trial for trial in evidence.trials if trial.lever == "weights" and trial.parent == parent.id]
    last = updates[-PATIENCE:]
    if len(last) == PATIENCE and all(trial.outcome != "promoted" for trial in last):
        return "its last updates brought no promotion: " + ", ".join(map(_became, last))
    choices, objections = _choices(evidence, parent, parent.exploration)
    if not choices:
        return "; ".join(objections)
    promise = _promise(evidence, parent.exploration, parent.estimate)
    if promise.size <= 0:
        return f"{promise.disagree:.0%} of its groups disagree, and {promise.room:.3f} is left to gain"
    choice = min(choices, key=lambda each: each.algorithm in {trial.name for trial in updates})
    learner = next(each for each in evidence.algorithms if each.name == choice.algorithm)
    training = fitted(evidence, learner, parent)
    if training is None:
        shortage = _shortage(evidence, learner, parent)
        return f"{choice.algorithm} does not fit into what edits leave of the budget: {shortage}"
    belief, before = _believed(evidence, promise.size, choice.algorithm, earlier)
    return UpdateArm(choice, parent, promise, belief, before, tuple(objections), learner, training)


def fitted(evidence: Evidence, learner: AlgorithmView, parent: AgentView) -> Training | None:
    """The training that the learner advises, cut to fit the budget; None where too little of it would be left.

    What was trained is looked at, so that much is left over at least. Counts are cut by steps,
    or where the first one is too wide for that, by instances. How fast an update will be is
    only estimated, so it is given its time instead; where no edit competes for that, all of
    it, and is stopped by it.
    """
    advised, cost = learner.training.get(parent.id, Training()), learner.costs.get(parent.id, {})
    shares = {kind: most / cost[kind] for kind, most in _room(evidence).items() if cost.get(kind)}
    fits = min([1.0, *(share for kind, share in shares.items() if kind != "seconds")])
    whole = _work(advised, advised.steps)
    if min(fits, shares.get("seconds", 1.0)) < LEAST:
        return None
    steps = max(each for each in range(advised.steps + 1) if _work(advised, each) <= fits * whole)
    cut = {"steps": steps, "prompts": advised.prompts}
    if not steps:  # its first step is too wide, so that fewer instances are left
        prompts = int(fits * _instances(advised, cost))
        if not prompts:
            return None
        cut = {"steps": advised.steps, "prompts": prompts}
    seconds = SHARE * evidence.budget_left["seconds"] if "seconds" in shares else None
    return advised.model_copy(update={**cut, "seconds": seconds})


def _room(evidence: Evidence) -> dict[str, float]:
    """The most that an update may use of each budgeted kind."""
    alone = "harness" not in evidence.levers
    part = ALONE if alone else SHARE
    limits = {kind: remaining for kind, remaining in evidence.budget_left.items() if not (alone and kind == "seconds")}
    return {kind: min(part * remaining, remaining - evidence.look.get(kind, 0.0)) for kind, remaining in limits.items()}


def _shortage(evidence: Evidence, learner: AlgorithmView, parent: AgentView) -> str:
    """The cost of an update that does not fit, and its allowance, of the kind that falls furthest short."""
    cost = learner.costs.get(parent.id, {})
    room = {kind: most for kind, most in _room(evidence).items() if cost.get(kind)}
    kind = min(room, key=lambda each: room[each] / cost[each])
    return f"it takes about {cost[kind]:,.0f} {kind}, and may take {max(0.0, room[kind]):,.0f}"


def _instances(advised: Training, cost: Mapping[str, float]) -> float:
    """The instances that a step of the advised training rolls out."""
    return cost["rollouts"] / _work(advised, advised.steps) if "rollouts" in cost else advised.prompts


def _work(training: Training, steps: int) -> int:
    """The rollouts of an instance over this many steps."""
    return sum(map(training.group_of, range(steps)))


def _choices(evidence: Evidence, parent: AgentView, stats: RewardStats) -> tuple[list[Choice], Sequence[str]]:
    """The table's choices to which no learner objects, best first; and the objections to the rest."""
    by_learner = {each.name: each.objections.get(parent.id, ()) for each in evidence.algorithms}
    called_for = recommend(stats, by_learner)
    objections = [
        f"{each.algorithm}: {', '.join(by_learner[each.algorithm])}"
        for each in called_for
        if by_learner[each.algorithm]
    ]
    missing = f"the selection table has no case for {', '.join(by_learner)} here"
    return [each for each in called_for if not by_learner[each.algorithm]], objections if called_for else [missing]


def _promise(evidence: Evidence, stats: RewardStats, estimate: float) -> Promise:
    """Without an upper bound, two deviations above the mean are in reach: some rollouts got there.

    An agent that searches (``discover``) evaluates several proposals before it answers: it
    is above them already, and gains as much as they do.
    """
    bounds = evidence.metric.reward_bounds
    now = stats.mean if evidence.discovers else estimate
    room = (bounds[1] if bounds else stats.mean + 2 * stats.deviation) - now
    differ = 1 - (stats.flat_groups or 0.0)
    if not differ and not stats.density:
        differ = UNSEEN / (stats.instances + UNSEEN)
    return Promise(differ, max(0.0, room))


def _believed(evidence: Evidence, size: float, algorithm: str, earlier: Sequence[Try]) -> tuple[Belief, str]:
    """Half of the promise, moved by the share of theirs that earlier updates won; and how much that was, in words.

    One that promised as much counts as much as the first guess; one that failed won nothing.
    """
    names = {each.name for each in evidence.algorithms}
    observations, won, promised = [], 0.0, 0.0
    for each in (*earlier, *own_tries(evidence)):
        if each.lever != "weights" or each.name not in names or each.exploration is None:
            continue
        its = _promise(evidence, each.exploration, each.estimate).size
        if its > NOTHING * size:
            gain, scale = each.gain or 0.0, size / its
            distance = each.distance(size / 2 / math.sqrt(scale)) * scale * scale
            observations.append((gain * scale, distance if each.name == algorithm else distance / OTHERS))
            won, promised = won + gain, promised + its
    before = f"earlier ones won {won:+.3f} of {promised:.3f}" if observations else "none was tried before"
    return Belief(size / 2, size / 2).after(observations), before


def _became(trial: Trial) -> str:
    """An update's outcome, in words."""
    return f"{trial.name} {trial.outcome} ({trial.why})"
