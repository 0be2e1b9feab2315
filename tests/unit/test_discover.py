"""The answers of a run: which of them searches start from, and which are compared in the end."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.errors import LedgerError
from sia_core.evidence import Rollout
from sia_core.run.discover import Answers, ValidAnswer, Verified, best_of, found_in


def rollout(answer: object, reward: float, outcome: str = "ok", start: str | None = None) -> Rollout:
    return Rollout("instance", outcome, reward, answer=json.dumps(answer), feedback=f"{reward:g}", start=start)


def entered(*agents: tuple[list[Rollout], list[Rollout]]) -> Answers:
    answers = Answers(active=True)
    for number, (searched, gated) in enumerate(agents):
        answers.keep(f"agent-{number}", searched, gated)
        answers.enter(f"agent-{number}")
    return answers


def test_before_there_are_answers_nothing_is_started_from() -> None:
    assert Answers(active=True).starts(3) == ()
    assert entered(([rollout(1, 0.0, "invalid-answer")], [])).starts(3) == ()


def test_what_was_found_on_the_gate_is_never_started_from_but_may_win() -> None:
    answers = entered(([rollout(1, 0.1)], [rollout(2, 0.9)]))
    assert {start["answer"] for start in answers.starts(5)} == {1}
    assert [each.answer for each in answers.finalists()] == ["2", "1"]


def test_an_agent_that_has_not_entered_has_found_nothing_yet() -> None:
    answers = Answers(active=True)
    answers.keep("agent", [rollout(1, 0.5)], [])
    assert answers.starts(1) == ()
    assert answers.finalists() == []


def test_where_answers_are_not_wanted_none_is_read() -> None:
    answers = Answers(active=False)
    answers.keep("agent", [Rollout("instance", "ok", 1.0, answer="no json")], [])
    answers.enter("agent")
    assert answers.starts(2) == ()


def test_a_start_shows_the_answer_with_what_it_earned() -> None:
    (start,) = entered(([rollout({"x": 1}, 0.25)], [])).starts(1)
    assert isinstance(start, dict)
    assert (start["answer"], start["reward"], start["feedback"]) == ({"x": 1}, 0.25, "0.25")


def test_several_starts_are_spread_and_what_was_gone_on_from_often_comes_later() -> None:
    searched = [rollout(number, number / 10) for number in range(4)]
    answers = entered((searched, []))
    first = [start["id"] for start in answers.starts(4)]
    assert len(set(first)) > 1
    worn = entered((searched, []), ([rollout(9, 0.0, start=first[0]) for _ in range(50)], []))
    assert worn.starts(1)[0]["id"] != first[0]


def test_an_answer_that_is_found_again_from_what_it_led_to_keeps_its_first_line() -> None:
    one, other = (entered(([rollout(number, 0.1)], [])).starts(1)[0]["id"] for number in (1, 2))
    answers = entered(
        ([rollout(1, 0.1)], []),
        ([rollout(2, 0.2, start=one)], []),
        ([rollout(1, 0.3, start=other)], []),
        ([rollout(1, 0.4, start=one)], []),
    )
    assert {(start["answer"], start["reward"]) for start in answers.starts(8)} == {(1, 0.4), (2, 0.2)}


@given(st.data())
def test_whatever_is_found_from_whatever_there_is_something_to_start_from(data: st.DataObject) -> None:
    answers = Answers(active=True)
    for number in range(data.draw(st.integers(1, 12))):
        starts = [start["id"] for start in answers.starts(3)]
        start = data.draw(st.sampled_from([*starts, None]))
        answer = rollout(data.draw(st.integers(1, 4)), data.draw(st.floats(0, 1)), start=start)
        answers.keep(f"{number}", [answer], [])
        answers.enter(f"{number}")
    assert len(answers.starts(3)) == 3


@pytest.mark.parametrize("rows", [5, [[1.0, True]], [[1.7e308, True]] * 2, [["1", True]] * 2])
def test_recorded_scores_that_no_run_records_are_an_error_and_not_a_score(rows: object) -> None:
    assert Verified.of([[1.0, True], [0.5, False, "far", {"a": 1.0}]], 2)[1].feedback == "far"
    with pytest.raises(LedgerError, match="which no run records"):
        Verified.of(rows, 2)


def test_the_finalists_are_the_best_each_once_of_all_or_of_some_agents() -> None:
    many = [rollout(number, number / 100) for number in range(20)]
    answers = entered(([*many, rollout(19, 0.01)], []), ([rollout(50, 0.5)], [rollout(51, 0.6)]))
    assert [each.answer for each in answers.finalists()] == ["51", "50", "19", "18", "17", "16", "15", "14"]
    assert [each.answer for each in answers.finalists({"agent-0"})] == ["19", "18", "17", "16", "15", "14", "13", "12"]


GATE = [f"gate-{place}" for place in range(40)]


def finalists_of(count: int) -> list[ValidAnswer]:
    return found_in("agent", [rollout(number, 0.0) for number in range(count)])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.integers(1, 40))
def test_an_answer_that_always_earns_most_wins_and_of_equals_the_first(rewards: list[float], gate: int) -> None:
    finalists = finalists_of(len(rewards))
    of = dict(zip((each.id for each in finalists), rewards, strict=True))
    best, earned = best_of(finalists, GATE[:gate], lambda each, instances: [of[each.id]] * len(instances))
    assert best is finalists[rewards.index(max(rewards))]
    assert len(earned) == min(gate, 7)


def test_half_of_the_finalists_go_on_each_time_and_each_round_costs_the_same() -> None:
    pairs: list[tuple[str, str]] = []

    def score(finalist: ValidAnswer, instances: Sequence[str]) -> list[float]:
        pairs.extend((finalist.answer, each) for each in instances)
        return [float(finalist.answer)] * len(instances)

    best, _ = best_of(finalists_of(8), GATE, score)
    assert best.answer == "7"
    first, second, third = pairs[:8], pairs[8:16], pairs[16:]
    assert {instance for _, instance in first} == {"gate-0"}
    assert {instance for _, instance in second} == {"gate-1", "gate-2"}
    assert {answer for answer, _ in second} == {"4", "5", "6", "7"}
    assert {answer for answer, _ in third} == {"6", "7"}
    assert len(first) == len(second) == len(third)


def test_what_won_before_is_kept_unless_another_earns_more() -> None:
    (winner,) = found_in("agent", [rollout("held", 0.0)])

    def score(finalist: ValidAnswer, instances: Sequence[str]) -> list[float]:
        return [float(finalist.answer)] * len(instances)

    assert best_of(finalists_of(8), GATE, score, (winner, [7.0] * 7))[0] is winner
    assert best_of(finalists_of(8), GATE, score, (winner, [8.0, 5.9] * 4))[0].answer == "7"


def test_an_answer_that_often_fails_is_not_chosen_for_what_it_earns_when_it_does_not() -> None:
    """Seven of eight finalists earn more than the eighth, and nothing on every other instance."""

    def score(finalist: ValidAnswer, instances: Sequence[str]) -> list[float]:
        steady = finalist.answer == "7"
        return [1.9 if steady else 2.1 * (int(each.removeprefix("gate-")) % 2) for each in instances]

    assert best_of(finalists_of(8), GATE, score)[0].answer == "7"
