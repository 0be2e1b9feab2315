"""Several candidates of one conversation: what they start from, what becomes of those that do not run, what is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played_model import STOP, Killed, World, rewrite, said, skill, use

from sia_core.decision import RewriteHarness
from sia_core.errors import UsageError
from sia_core.evidence import AgentView, Evidence, Rollout, Trial, summarise
from sia_core.harness import HarnessTree
from sia_core.run.candidate import make_agent
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Plan
from sia_core.run.record import INVALID
from sia_core.run.run_view import Checked
from sia_core.types import Metric
from sia_llm.models import Reply, Usage
from sia_llm.parents import best_on, parents
from sia_llm.proposal import Proposals
from sia_llm.recorded import recording
from sia_llm.workshop import Workshop
from sia_testing.fakes import SKILL, FakeTask, InstantBackend, harness

pytestmark = pytest.mark.thorough


def aside(name: str, gain: float = 0.1) -> tuple[str, Any]:
    return use("set_aside", name=name, reason="why not", prediction={"gain": gain, "where": "everywhere"})


BROKEN = use("write_file", path=SKILL, text="broken\n")


PAIR = [
    [skill(0.5), aside("half", 0.3), use("list_files")],
    [skill(0.9), rewrite("most", 0.7)],
    [skill(0.95, 0.9), rewrite("more")],
    [STOP],
]
"""A generation of two candidates, one of one, and a stop."""


def test_one_conversation_makes_two_candidates_each_with_its_own_hypothesis(tmp_path: Path) -> None:
    world = World(tmp_path, *PAIR)
    report = world.run()
    assert [(row["index"], row["candidate"], row["name"], row["predicted"]) for row in report["generations"]] == [
        (0, 0, "half", 0.3),
        (0, 1, "most", 0.7),
        (1, 0, "more", 0.1),
    ]
    first = harness(0.2).digest[:12]
    assert [row["parent"] for row in report["generations"]] == [first, first, harness(0.9).digest[:12]]
    assert "set aside, 1 of 2; your working copy is now agent" in world.told(1)
    assert report["agent"]["harness"] in (harness(0.9).digest, harness(0.95).digest)


def test_what_was_set_aside_is_enough_to_end_with(tmp_path: Path) -> None:
    world = World(tmp_path, [skill(0.9), aside("most"), use("decide", changes=[])], [STOP])
    assert [row["name"] for row in world.run()["generations"]] == ["most"]


@pytest.mark.parametrize("call", range(len(PAIR)))
def test_killed_at_any_call_and_resumed_the_same_candidates_are_made_and_nothing_is_paid_for_twice(
    tmp_path: Path, call: int
) -> None:
    whole = World(tmp_path / "whole", *PAIR, parents="puct").run()
    with pytest.raises(Killed):
        World(tmp_path / "killed", *PAIR[:call], Killed(), parents="puct").run()
    resumed = World(tmp_path / "killed", *PAIR[call:], parents="puct")
    report = resumed.run()
    assert len(resumed.provider.asked) == len(PAIR) - call
    assert {**report, "run": "", "budget": "", "models": ""} == {**whole, "run": "", "budget": "", "models": ""}
    for kind in ("rollouts", "verifications"):
        assert report["budget"]["spent"][kind] == whole["budget"]["spent"][kind]


def test_a_recorded_run_of_several_candidates_goes_the_same_way_with_nobody_to_ask(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole", *PAIR, parents="pareto").run()
    with Ledger.read(tmp_path / "whole") as ledger:
        (tmp_path / "recorded.jsonl").write_text(recording(ledger))
    again = World(tmp_path / "again", replay=str(tmp_path / "recorded.jsonl"), parents="pareto")
    assert {**again.run(), "run": "", "budget": "", "models": ""} == {**whole, "run": "", "budget": "", "models": ""}


# Triage: what is no candidate is handed back, and costs no evaluation.

THREE = [skill(0.5), aside("a"), skill(0.6), aside("b"), skill(0.7)]
WRONG = [
    ([aside("nothing")], "does not differ from its parent"),
    ([BROKEN, aside("broken")], "It must run before it can be tried"),
    ([skill(0.5), aside("half"), skill(0.5), aside("again")], "what you set aside already"),
    (
        [skill(0.5), aside("a"), skill(0.6), aside("b"), skill(0.7), aside("c")],
        "2 changes a generation; you gave 1 beside the 2",
    ),
    (
        [skill(0.5), aside("a"), skill(0.6), aside("b"), skill(0.7), rewrite("c")],
        "you gave 1 beside the 2 that you set aside",
    ),
    ([BROKEN, rewrite("broken")], "SyntaxError: broken"),
]


@pytest.mark.parametrize(("calls", "why"), WRONG)
def test_what_would_be_refused_or_does_not_run_is_handed_back_and_not_evaluated(
    tmp_path: Path, calls: Any, why: str
) -> None:
    world = World(tmp_path, calls, [use("decide", changes=[])], [STOP], [STOP])
    world.run()
    assert why in world.told(1)
    smoked = {sweep.harness for sweep in world.backend.sweeps if sweep.purpose == "smoke"}
    assert smoked <= {harness(share).digest for share in (0.2, 0.5, 0.6)}


def test_a_copy_is_checked_before_it_is_proposed_but_the_same_one_never_twice(tmp_path: Path) -> None:
    calls = [skill(0.5), use("check"), use("check"), aside("half"), skill(0.9), rewrite("most")]
    world = World(tmp_path, calls, [STOP])
    report = world.run()
    checked = [sweep.harness for sweep in world.backend.sweeps if sweep.purpose == "check"]
    assert checked == [harness(0.5).digest, harness(0.9).digest]
    whole = sum(len(sweep.instances) * sweep.group for sweep in world.backend.sweeps)
    assert report["budget"]["spent"]["rollouts"] == whole


def test_a_copy_without_a_valid_answer_is_handed_back_where_its_agent_had_some(tmp_path: Path) -> None:
    class Wordy(InstantBackend):
        def submit(self, job: Any) -> Any:
            future = super().submit(job)
            if job.payload["sweep"]["purpose"] == "check":
                for row in future.result()["rollouts"]:
                    row.update(outcome=INVALID, message="not a number")
            return future

    world = World(tmp_path, [skill(0.9), rewrite("wordy")], [STOP])
    world.backend = Wordy()
    assert world.run()["generations"] == []
    assert "None of its answers is valid" in world.told(1)


def test_the_report_tells_what_was_sorted_out_before_it_cost_an_evaluation(tmp_path: Path) -> None:
    hangs = use("write_file", path=SKILL, text="hangs\n")
    calls = [BROKEN, aside("broken"), hangs, aside("hangs"), skill(0.9), rewrite("most")]
    report = World(tmp_path, calls, [STOP]).run()
    assert report["triage"] == {"checked": 3, "not_running": 1, "refused": 0, "failed": 1, "screened": 0, "compared": 1}


# What was set aside is kept, whatever becomes of the conversation.

AFTER = [[skill(0.9), aside("most"), use("list_files")]]


def test_when_the_dollars_are_spent_what_was_set_aside_is_still_tried(tmp_path: Path) -> None:
    dear = replace(said(*AFTER[0]), usage=Usage(100, 16_000))
    report = World(tmp_path, dear, budget="dollars=0.45").run()
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("most", True)]
    assert "no call of a-model fits into the budget any more" in report["stopped"]


@pytest.mark.parametrize("fault", [said(ended="refusal"), said(text="I think that"), said(rewrite("nothing"))])
def test_when_the_model_does_not_come_to_an_end_what_was_set_aside_is_tried_and_that_is_said(
    tmp_path: Path, fault: Reply
) -> None:
    world = World(tmp_path, *AFTER, *[fault] * 4, [STOP])
    report = world.run()
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("most", True)]
    assert report["stopped"] == "enough"
    assert any("what it had set aside is tried" in notice for notice in world.notices)


def test_where_no_check_fits_into_the_budget_the_run_ends_well(tmp_path: Path) -> None:
    once = 2 + 200 + 200 + 2 * 200  # the first agent, and the sealed report
    report = World(tmp_path, [skill(0.9), rewrite("most")], budget=f"rollouts={once + 5}").run()
    assert report["status"] == "finished"
    assert report["stopped"] == "the budget is spent"


def test_a_copy_that_was_short_of_tokens_in_its_check_is_not_held_to_be_broken() -> None:
    class Run:
        evaluations = 0

        def check(self, tree: HarnessTree, adapter: str | None, chosen: Any = ()) -> Checked:
            return Checked([Rollout("search-0", "crash", 0.0)], "1 rollouts need more tokens", short=True)

    workshop = Workshop(Run(), {}, [make_agent(harness(0.2), None, None)])  # type: ignore[arg-type]
    workshop.tree = harness(0.5)
    assert workshop.candidate().tree == harness(0.5)


def test_a_run_of_one_candidate_a_generation_has_nothing_to_set_aside(tmp_path: Path) -> None:
    world = World(tmp_path, [skill(0.9), rewrite("most")], [STOP], plan=Plan(candidates=1))
    world.run()
    assert "set_aside" not in {tool.name for tool in world.provider.asked[0].tools}
    assert "set one aside" not in world.told(0)


# What a generation starts from.


def agent(name: str, parent: str | None, *rewards: float) -> AgentView:
    rollouts = [Rollout(f"search-{at}", "ok", reward) for at, reward in enumerate(rewards)]
    plain = make_agent(harness(0.2), None, None)
    return replace(plain, id=name, parent=parent, search=summarise(rollouts, 0.0))


EARNED = {"first": (0, 0, 1, 0), "left": (1, 1, 0, 0), "right": (0, 0, 1, 1), "worse": (1, 0, 0, 0)}


def evidence(generation: int = 1, candidates: int = 2, tried: int = 1) -> Evidence:
    agents = {
        name: agent(name, None if name == "first" else "first", *map(float, rewards))
        for name, rewards in EARNED.items()
    }
    trials = [Trial(0, "harness", name, None, "first", name, "", 0.0, "rejected", "", 0.0) for name in agents]
    return Evidence(
        generation=generation,
        seed=3,
        brief="",
        metric=Metric("right"),
        levers=("harness",),
        incumbent="left",
        agents=agents,
        trials=tuple(trials[1:] * tried),
        playbook=None,
        candidates=candidates,
        smallest_gain=0.1,
        budget_left={},
    )


def rewards(name: str) -> dict[str, float]:
    return {f"search-{at}": float(reward) for at, reward in enumerate(EARNED[name])}


def chosen(rule: Any, view: Evidence) -> list[str]:
    return [each.id for each in parents(rule, view, rewards)]


def test_by_keep_best_every_candidate_starts_from_the_incumbent() -> None:
    assert chosen("keep-best", evidence()) == ["left", "left"]


def test_by_pareto_it_starts_from_agents_that_nobody_beats_by_how_many_instances_they_are_best_on() -> None:
    drawn = Counter(name for at in range(300) for name in chosen("pareto", evidence(generation=at)))
    assert set(drawn) == {"left", "right"}
    assert best_on({name: rewards(name) for name in EARNED}) == {"left": 2, "right": 2}
    assert 200 < drawn["left"] < 400


def test_the_same_evidence_gives_the_same_parents_and_another_generation_others() -> None:
    draws = [chosen("pareto", evidence(generation=at, candidates=8)) for at in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_by_puct_it_starts_from_what_led_to_good_ones_and_turns_to_what_was_rarely_tried() -> None:
    assert chosen("puct", evidence(candidates=1)) == ["left"]
    often = chosen("puct", evidence(candidates=20, tried=4))
    assert set(often) >= {"left", "right"}
    assert Counter(often)["left"] > Counter(often)["worse"]


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_front_covers_the_best_of_every_instance_and_nobody_on_it_is_beaten(table: list[list[int]]) -> None:
    earned = {f"a{at}": {str(place): float(each) for place, each in enumerate(row)} for at, row in enumerate(table)}
    front = best_on(earned)
    for place in range(4):
        top = max(row[place] for row in table)
        assert any(earned[name][str(place)] == top for name in front)
    for name in front:
        own = earned[name]
        assert not any(all(other[place] >= own[place] for place in own) and other != own for other in earned.values())
        assert 0 < front[name] <= 4


def test_tasks_whose_result_is_the_best_answer_start_by_puct_and_others_from_the_best(tmp_path: Path) -> None:
    for kind, why in (("solve", "it is the incumbent"), ("discover", "changes of it earned most")):
        task = FakeTask()
        task.kind = kind  # type: ignore[assignment]
        world = World(tmp_path / kind, [STOP], task=task)
        world.run()
        assert f"({why}" in world.told(0)


def test_the_model_is_told_where_each_candidate_starts_and_by_which_rule(tmp_path: Path) -> None:
    world = World(tmp_path, *PAIR, parents="pareto")
    world.run()
    best = harness(0.9).digest[:12]
    assert f"of agent {best} (drawn at random, more often the more" in world.told(2)
    assert f"When you set a change aside, a new working copy begins, from agent {best}." in world.told(2)


def test_each_candidate_that_is_set_aside_makes_way_for_the_next_parents_harness() -> None:
    class Run:
        evaluations = 0

        def check(self, tree: HarnessTree, adapter: str | None, chosen: Any = ()) -> Checked:
            return Checked([Rollout("search-0", "ok", 1.0)])

        def rollouts(self, agent: str) -> list[Rollout]:
            return []

    begins = [replace(agent(name, None, 1.0), files=harness(share)) for name, share in (("a", 0.1), ("b", 0.3))]
    workshop = Workshop(Run(), {}, begins)  # type: ignore[arg-type]
    proposals = Proposals(evidence(), workshop)
    tools = {each.name: each for each in (*workshop.offered, *proposals.offered)}
    for name, arguments in (skill(0.8, 0.1), aside("better"), skill(0.9, 0.3), aside("best")):
        tools[name].use(tools[name].takes(**arguments))
    assert [each.parent for each in proposals.aside if isinstance(each, RewriteHarness)] == ["a", "b"]


def test_a_rule_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--improver-set parents=magic: .*'keep-best', 'pareto' or 'puct'"):
        World(tmp_path, parents="magic")
