"""When the playbook improver trains, with which algorithm, and why it says so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sia_core.decision import RewriteHarness, Stop, Training, UpdateWeights
from sia_core.evidence import (
    AgentView,
    AlgorithmView,
    Evidence,
    RewardStats,
    Rollout,
    Trial,
    WeightsView,
    reward_stats,
    summarise,
)
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Metric
from sia_playbook.improver import Bandit
from sia_testing.improvers import plain_evidence

NAMES = ("ppo", "grpo", "entropic", "reinforce", "dpo", "best-of-n")
HOWS = {"first": Training(steps=7)}
COSTS = {"first": {"rollouts": 2048, "verifications": 2048, "tokens": 60_000, "seconds": 42.0}}
LETTERS = "ABCDEF"
BOOK = Playbook.model_validate(
    {
        "edit": [
            {
                "name": f"edit {letter}",
                "family": letter,
                "summary": f"set {letter}",
                "change": [{"op": "replace", "path": "harness.py", "old": f"{letter} = 1", "new": f"{letter} = 2"}],
            }
            for letter in LETTERS
        ]
    }
)


def exploration(chances: Sequence[float], size: int = 8, kl: float | None = None, seed: int = 0) -> RewardStats:
    """Groups of right and wrong answers, one group for each chance of being right."""
    source = random.Random(seed)
    rollouts = [
        Rollout(f"i{index}", "ok", float(source.random() < chance))
        for index, chance in enumerate(chances)
        for _ in range(size)
    ]
    return reward_stats(rollouts, 0.0, kl_to_base=kl)


UNTRAINED = exploration([0.005] * 32)
"""An untrained policy on 191 charges, right once in two hundred."""

DENSE = exploration([0.95] * 16 + [0.6] * 8 + [0.1] * 8, kl=0.0)
"""The same behind a good harness: right two times out of three, unsure on half of the instances."""


def agent(
    name: str, score: float, explored: RewardStats | None, letters: str = "", adapter: str | None = None
) -> AgentView:
    text = "".join(f"{letter} = {2 if letter in letters else 1}\n" for letter in LETTERS)
    tree = HarnessTree({"harness.py": text.encode()})
    rollouts = [Rollout(f"i{index}", "ok", float(index < round(100 * score))) for index in range(100)]
    edits = tuple(f"edit {letter}" for letter in letters)
    return AgentView(name, tree.digest, adapter, None, tree, edits, summarise(rollouts, 0.0), explored)


def evidence(*agents: AgentView, trials: tuple[Trial, ...] = (), **changes: Any) -> Evidence:
    fields = {
        "generation": len(trials),
        "levers": ("harness", "weights"),
        "trials": trials,
        "playbook": BOOK,
        "algorithms": tuple(AlgorithmView(name, name, training=HOWS, costs=COSTS) for name in NAMES),
        "weights": WeightsView(),
    }
    return plain_evidence(*agents, **{**fields, **changes})


def trial(lever: str, name: str, gain: float | None, parent: str, outcome: str = "rejected") -> Trial:
    algorithm = name if lever == "weights" else None
    return Trial(0, lever, name, algorithm, parent, None, "", 0.0, outcome, "not shown to be better", gain)


def objecting(*names: str) -> tuple[AlgorithmView, ...]:
    objections = {"first": ("nothing differs",), "better": ("nothing differs",)}
    return tuple(AlgorithmView(name, name, (), objections if name in names else {}) for name in NAMES)


def decided(view: Evidence) -> list[str]:
    """The choices, as ``name of agent``."""
    names = []
    for each in Bandit().decide(view):
        assert not isinstance(each, Stop)
        names.append(f"{each.name if isinstance(each, RewriteHarness) else each.algorithm} of {each.parent}")
    return names


def update(view: Evidence) -> UpdateWeights:
    (decision,) = (each for each in Bandit().decide(view) if isinstance(each, UpdateWeights))
    return decision


def deviation(decision: UpdateWeights) -> float:
    """The reason's figure after the ± sign."""
    return float(decision.reason.split("± ")[1].split(",")[0])


def stopped(view: Evidence) -> str:
    (decision,) = Bandit().decide(view)
    assert isinstance(decision, Stop)
    return decision.reason


def test_a_policy_that_is_hardly_ever_right_waits_for_the_harness() -> None:
    decisions = Bandit().decide(evidence(agent("first", 0.0, UNTRAINED)))
    assert all(isinstance(each, RewriteHarness) for each in decisions)
    assert "An update by best-of-n of agent first can wait" in decisions[0].reason


def test_once_the_harness_makes_rewards_dense_an_update_is_worth_most() -> None:
    agents = (agent("better", 0.65, DENSE, "A"), agent("first", 0.0, UNTRAINED))
    edited = (trial("harness", "edit A", 0.65, "first", "promoted"),)
    assert decided(evidence(*agents, trials=edited))[0] == "reinforce of better"


def test_a_generation_makes_one_update_beside_its_edits() -> None:
    decisions = Bandit().decide(evidence(agent("first", 0.3, DENSE), candidates=4))
    assert [isinstance(each, UpdateWeights) for each in decisions].count(True) == 1
    assert len(decisions) == 4


def test_an_update_on_a_denser_harness_promises_more_until_little_is_left_to_gain() -> None:
    def promised(score: float, chance: float) -> float:
        view = evidence(agent("first", score, exploration([chance] * 32)), levers=("weights",))
        return update(view).prediction.gain

    assert promised(0.01, 0.01) < promised(0.05, 0.05) < promised(0.3, 0.3)
    assert promised(0.9, 0.5) < promised(0.5, 0.5)


def test_the_levers_alternate_as_each_is_used_up() -> None:
    """An edit makes the agent right more often, an update makes it surer, as the loop would see it."""
    first = agent("first", 0.0, UNTRAINED)
    better = agent("better", 0.65, DENSE, "A")
    trained = agent("trained", 0.72, exploration([0.99] * 22 + [0.5] * 4 + [0.05] * 6, kl=0.4), "A", "weights 1")
    edited = (trial("harness", "edit A", 0.65, "first", "promoted"),)
    updated = (*edited, trial("weights", "reinforce", 0.07, "better", "promoted"))
    again = evidence(trained, better, first, trials=updated, candidates=1)
    assert decided(evidence(first, candidates=1))[0].startswith("edit")
    assert decided(evidence(better, first, trials=edited, candidates=1)) == ["reinforce of better"]
    assert decided(again)[0].startswith("edit")
    tried = tuple(trial("harness", f"edit {letter}", -0.02, "trained") for letter in "BCDEF")
    assert decided(replace(again, trials=(*updated, *tried))) == ["ppo of trained"]


ALL_ALIKE = Playbook.model_validate({"edit": [{**entry.model_dump(), "family": "all"} for entry in BOOK.edit]})
LOOK = {"rollouts": 256.0}
"""An update costs as much as nine edits: 2,048 rollouts, and a look at what was trained."""


def test_an_update_waits_while_the_edits_that_it_would_cost_are_expected_to_gain_more() -> None:
    agents = (agent("better", 0.4, DENSE, "A"), agent("first", 0.0, UNTRAINED))
    earned = (trial("harness", "edit A", 0.2, "first", "promoted"),)
    training, costs = {"better": HOWS["first"]}, {"better": COSTS["first"]}
    algorithms = tuple(AlgorithmView(name, name, training=training, costs=costs) for name in NAMES)
    view = evidence(*agents, trials=earned, playbook=ALL_ALIKE, look=LOOK, algorithms=algorithms)
    assert all(each.startswith("edit") for each in decided(view))
    assert "can wait: +0.178 ± 0.178 is expected, for the price of 9 edits" in Bandit().decide(view)[0].reason
    assert "reinforce of better" in decided(replace(view, look={}))  # for the price of one
    assert "reinforce of better" in decided(replace(view, playbook=BOOK))  # no other edit is known to be like it
    assert "reinforce of better" in decided(replace(view, smallest_gain=0.3))  # the gate would see none of them


def test_an_update_is_cut_to_what_edits_leave_of_the_budget_and_says_so() -> None:
    plain = evidence(agent("first", 0.3, DENSE))
    timed = update(replace(plain, budget_left={"seconds": 50.0})).training
    assert (timed.steps, timed.seconds) == (7, 25.0)
    cut = update(replace(plain, budget_left={"seconds": 50.0, "rollouts": 2400.0}))
    assert cut.training.steps == 4
    price = (
        "for about 1,170 rollouts, 34,286 tokens and 24 s, but no more than 25 s, 4 of 7 steps, as the budget has it"
    )
    assert price in cut.reason
    starved = Bandit().decide(replace(plain, budget_left={"seconds": 8.0}))
    assert not any(isinstance(each, UpdateWeights) for each in starved)
    shortage = "does not fit into what edits leave of the budget: it takes about 42 seconds, and may take 4"
    assert shortage in starved[0].reason
    alone = replace(plain, levers=("weights",), budget_left={"seconds": 12.0})
    assert update(alone).training.steps == 7  # nothing else needs it
    for kind in ("rollouts", "verifications"):
        counted = update(replace(alone, budget_left={kind: 1900.0}))
        assert counted.training.steps == 5  # or it would be refused, and the lever never pulled


def test_an_update_that_begins_too_wide_for_the_budget_is_cut_to_fewer_instances() -> None:
    advised = Training(steps=7, prompts=2048, group=8, first_group=64)
    instances = 1842
    cost = {"rollouts": advised.rollouts(instances), "tokens": 1e6, "seconds": 60.0}
    learner = AlgorithmView("ppo", "ppo", training={"first": advised}, costs={"first": cost})
    plain = evidence(agent("first", 0.3, DENSE), algorithms=(learner,), levers=("weights",))
    decision = update(replace(plain, budget_left={"rollouts": 0.25 * cost["rollouts"]}))
    assert (decision.training.steps, decision.training.prompts) == (7, 368)
    assert decision.training.rollouts(instances) <= 0.2 * cost["rollouts"]
    assert "for about 41,216 rollouts" in decision.reason
    assert "368 of 1,842 instances, as the budget has it" in decision.reason
    assert stopped(replace(plain, budget_left={"rollouts": 0.1 * cost["rollouts"]}))


def test_an_update_leaves_enough_to_look_at_what_it_trained() -> None:
    advised = Training(steps=48, prompts=8, group=8)
    cost = {"rollouts": advised.rollouts(4), "verifications": advised.rollouts(4), "tokens": 1e6, "seconds": 60.0}
    learner = AlgorithmView("ppo", "ppo", training={"first": advised}, costs={"first": cost})
    plain = evidence(agent("first", 0.3, DENSE), algorithms=(learner,), levers=("weights",))
    decision = update(replace(plain, budget_left={"verifications": 380.0}, look={"verifications": 124.0}))
    assert decision.training.rollouts(4) == 256
    assert stopped(replace(plain, budget_left={"verifications": 380.0}, look={"verifications": 300.0}))


def test_few_steps_stay_steps_and_nothing_takes_more_than_its_share() -> None:
    advised = Training(steps=48, prompts=8, group=16)
    cost = {"rollouts": advised.rollouts(4), "tokens": 1e6, "seconds": 60.0}
    learner = AlgorithmView("ppo", "ppo", training={"first": advised}, costs={"first": cost})
    plain = evidence(agent("first", 0.3, DENSE), algorithms=(learner,), levers=("weights",))
    decision = update(
        replace(plain, budget_left={"rollouts": 0.13 * cost["rollouts"]})
    )  # of which a tenth is 4.9 steps
    assert (decision.training.steps, decision.training.prompts) == (4, 8)
    wide = replace(learner, training={"first": Training(steps=48, prompts=8, group=16, first_group=512)})
    assert stopped(replace(plain, algorithms=(wide,), budget_left={"rollouts": 0.13 * cost["rollouts"]}))


def test_a_trained_policy_stays_with_the_agent_whose_harness_is_edited_even_to_one_that_is_known() -> None:
    trained = agent("trained", 0.5, None, adapter="weights 1")
    other = agent("known", 0.4, None, "A")
    assert "edit A of trained" in decided(evidence(trained, other, candidates=9))


def test_a_rejected_update_is_worth_less_and_another_algorithm_is_next() -> None:
    first = agent("first", 0.5, DENSE)
    fresh = update(evidence(first, levers=("weights",)))
    again = update(evidence(first, levers=("weights",), trials=(trial("weights", "reinforce", 0.0, "first"),)))
    assert (fresh.algorithm, again.algorithm) == ("reinforce", "ppo")
    assert 0 < again.prediction.gain < fresh.prediction.gain
    assert "none was tried before" in fresh.reason
    assert "earlier ones won +0.000 of" in again.reason
    assert deviation(again) < deviation(fresh)


def test_what_an_update_won_is_believed_less_where_a_small_sample_shows_it() -> None:
    def expected(instances: int) -> float:
        rollouts = [Rollout(f"i{index}", "ok", float(index % 2)) for index in range(instances)]
        first = replace(agent("first", 0.5, DENSE), search=summarise(rollouts, 0.0))
        tried = (trial("weights", "reinforce", 0.0, "first"),)
        return update(evidence(first, levers=("weights",), trials=tried)).prediction.gain

    assert expected(10_000) < expected(10) < update(evidence(agent("first", 0.5, DENSE))).prediction.gain


def test_an_update_that_had_little_to_win_says_little_of_one_that_has_much() -> None:
    first, better = agent("first", 0.0, UNTRAINED), agent("better", 0.5, DENSE, "A")
    plain = update(evidence(better, first, levers=("weights",)))
    cold = update(evidence(better, first, levers=("weights",), trials=(trial("weights", "ppo", 0.0, "first"),)))
    failed = update(
        evidence(better, first, levers=("weights",), trials=(trial("weights", "ppo", None, "first", "failed"),))
    )
    assert cold.prediction.gain == failed.prediction.gain
    assert 0.8 * plain.prediction.gain < cold.prediction.gain < plain.prediction.gain


def test_what_a_learner_objects_to_is_passed_over_and_the_reason_says_so() -> None:
    view = evidence(agent("first", 0.5, DENSE), levers=("weights",), algorithms=objecting("reinforce"))
    decision = update(view)
    assert decision.algorithm == "ppo"
    assert "not reinforce: nothing differs" in decision.reason


def test_the_reason_names_the_tables_case_the_promise_the_expectation_and_the_price() -> None:
    decision = update(evidence(agent("first", 0.5, DENSE), levers=("weights",)))
    promise = (1 - (DENSE.flat_groups or 0.0)) * 0.5
    assert "By the selection table: reinforce (density " in decision.reason
    assert f"the best reward in reach is 0.500 away, so an update promises {promise:.3f}" in decision.reason
    assert f"Expected {promise / 2:+.3f} ± {promise / 2:.3f}" in decision.reason
    assert "2,048 rollouts, 60,000 tokens and 42 s" in decision.reason
    assert decision.prediction.gain == pytest.approx(promise / 2, abs=1e-4)


def test_an_update_is_trained_as_its_learner_advises() -> None:
    assert update(evidence(agent("first", 0.5, DENSE), levers=("weights",))).training == HOWS["first"]


def test_without_an_upper_bound_what_some_rollouts_reached_is_in_reach() -> None:
    source = random.Random(0)
    speeds = [Rollout("kernel", "ok", source.choice((0.0, 0.1, 0.1, 1.3))) for _ in range(64)]
    stats = reward_stats(speeds, 0.0)
    view = evidence(agent("first", 0.0, stats), levers=("weights",), metric=Metric("speed", bounds=None))
    assert update(view).algorithm == "entropic"
    assert update(view).prediction.gain == pytest.approx((stats.mean + 2 * stats.deviation) / 2, abs=1e-4)
    beyond = agent("first", 1.0, replace(stats, deviation=0.1))
    assert "0.000 is left to gain" in stopped(replace(view, agents={"first": beyond}))


class TestWeightsOnly:
    @pytest.mark.parametrize(("estimate", "parent"), [(0.6, "first"), (0.7, "better")])
    def test_it_proposes_one_update_of_the_incumbent_unless_another_agent_is_clearly_better(
        self, estimate: float, parent: str
    ) -> None:
        agents = (agent("first", 0.5, DENSE), agent("better", estimate, DENSE, adapter="weights 1"))
        tried = (replace(trial("weights", "ppo", estimate - 0.5, "first"), agent="better"),)
        assert decided(evidence(*agents, trials=tried, levers=("weights",))) == [f"reinforce of {parent}"]

    def test_it_goes_back_to_the_incumbent_when_the_best_agent_is_not_to_be_trained(self) -> None:
        agents = (agent("first", 0.5, DENSE), agent("better", 0.7, None, adapter="weights 1"))
        tried = (replace(trial("weights", "ppo", 0.2, "first"), agent="better"),)
        assert decided(evidence(*agents, trials=tried, levers=("weights",))) == ["reinforce of first"]

    @pytest.mark.parametrize("outcome", ["rejected", "failed", "refused"])
    def test_it_stops_when_the_last_two_updates_brought_no_promotion(self, outcome: str) -> None:
        twice = tuple(trial("weights", name, None, "first", outcome) for name in ("reinforce", "ppo"))
        view = evidence(agent("first", 0.5, DENSE), levers=("weights",))
        assert decided(replace(view, trials=twice[:1])) == ["ppo of first"]
        reason = stopped(replace(view, trials=twice))
        assert "its last updates brought no promotion" in reason
        assert f"ppo {outcome} (not shown to be better)" in reason

    def test_a_promoted_update_is_no_reason_to_stop(self) -> None:
        first, trained = agent("first", 0.5, DENSE), agent("trained", 0.6, DENSE, adapter="weights 1")
        trials = (trial("weights", "ppo", 0.0, "first"), trial("weights", "reinforce", 0.1, "first", "promoted"))
        assert decided(evidence(trained, first, trials=trials, levers=("weights",))) == ["reinforce of trained"]

    def test_it_stops_when_every_learner_objects(self) -> None:
        view = evidence(agent("first", 0.5, DENSE), levers=("weights",), algorithms=objecting(*NAMES))
        assert "reinforce: nothing differs; ppo: nothing differs" in stopped(view)

    def test_it_stops_when_there_is_nothing_to_win(self) -> None:
        sure = exploration([1.0, 0.0] * 8)
        assert "0% of its groups disagree" in stopped(evidence(agent("first", 0.5, sure), levers=("weights",)))

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"weights": None}, "no policy to train"),
            ({"weights": WeightsView(refused="its engine only samples")}, "cannot be updated: its engine only samples"),
            ({"algorithms": ()}, "no learner is on offer"),
            ({"algorithms": (AlgorithmView("dpo", ""),)}, "no case for dpo here"),
        ],
    )
    def test_it_stops_where_the_lever_cannot_be_pulled(self, changes: dict[str, Any], why: str) -> None:
        assert why in stopped(evidence(agent("first", 0.5, DENSE), levers=("weights",), **changes))

    def test_it_stops_where_no_agent_was_explored(self) -> None:
        assert "not explored" in stopped(evidence(agent("first", 0.5, None), levers=("weights",)))


def test_with_both_levers_used_up_it_stops_and_says_why_of_each() -> None:
    tried = tuple(trial("harness", f"edit {letter}", 0.0, "first") for letter in LETTERS)
    reason = stopped(evidence(agent("first", 0.5, DENSE), trials=tried, algorithms=()))
    assert "every edit of the catalogue that applies was tried" in reason
    assert "no learner is on offer" in reason


def test_edits_say_why_there_is_no_update_beside_them() -> None:
    (decision, *_) = Bandit().decide(evidence(agent("first", 0.5, DENSE), weights=WeightsView(refused="no memory")))
    assert "No update: the weights cannot be updated: no memory." in decision.reason
