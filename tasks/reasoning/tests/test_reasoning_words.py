"""Sums in words: which there are, how they are dealt out, and what an answer earns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.types import Instance
from sia_reasoning.cases import SPLITS
from sia_reasoning.task import Reasoning
from sia_reasoning.verifier import ReasoningVerifier
from sia_reasoning.words import EXAMPLES, number_word, value_of
from sia_testing.verifiers import context


def questions(task: Reasoning, *splits: Any) -> list[str]:
    return [each.input["question"] for split in splits for each in task.instances(split)]


def earned(question: str, answer: str) -> float:
    task, verifier = Reasoning(), ReasoningVerifier()
    (instance,) = [each for split in SPLITS for each in task.instances(split) if each.input["question"] == question]
    return verifier.score(instance, {"answer": answer}, context()).reward


def test_every_sum_of_two_numbers_to_twelve_is_in_one_split(words: Reasoning) -> None:
    every = questions(words, *SPLITS)
    assert len(every) == len(set(every)) == 3 * 12 * 12
    assert Counter(each.split()[1] for each in every) == {"plus": 144, "minus": 144, "times": 144}
    assert [len(words.instances(split)) for split in SPLITS] == [8, 192, 80, 152]


@pytest.mark.parametrize("seed", range(5))
def test_the_examples_are_public_whatever_the_seed(seed: int) -> None:
    assert set(questions(Reasoning(seed=seed), "public")) == set(EXAMPLES)


def test_another_seed_deals_otherwise(words: Reasoning) -> None:
    assert set(questions(words, "sealed")) != set(questions(Reasoning(seed=1), "sealed"))


@pytest.mark.slow
def test_what_the_seed_deals_does_not_change_with_the_order_of_sets(words: Reasoning) -> None:
    code = "from sia_reasoning.task import Reasoning; print(Reasoning().instances('sealed')[0].input['question'])"
    for number in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": number}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == questions(words, "sealed")[0]


@pytest.mark.parametrize(
    ("question", "value"),
    [("nine minus four", 5), ("six times twelve", 72), ("one minus twelve", -11), ("twenty-one plus ninety", 111)],
)
def test_a_sum_has_the_value_that_people_expect(question: str, value: int) -> None:
    assert value_of(question) == value


def test_numbers_are_spelled_as_in_english() -> None:
    assert [number_word(n) for n in (0, 13, 20, 21, 40, 99)] == [
        "zero",
        "thirteen",
        "twenty",
        "twenty-one",
        "forty",
        "ninety-nine",
    ]


@pytest.mark.parametrize("answer", ["5", " 5\n", "+5", "5.0", "05"])
def test_a_right_number_earns_one_however_it_is_written(answer: str) -> None:
    assert earned("nine minus four", answer) == 1


@pytest.mark.parametrize("answer", ["-5", "five", "", "5 or 6", "15", "5.5", "5.", "٥", "9 - 4", "5" * 9000, "5\x00"])
def test_all_else_earns_nothing(answer: str) -> None:
    assert earned("nine minus four", answer) == 0


def test_larger_numbers_make_more_questions() -> None:
    task = Reasoning(difficulty='{"largest": 30}', search=500, gate=500, sealed=1000)
    every = questions(task, *SPLITS)
    assert len(every) == len(set(every)) == 2008
    assert any("twenty-" in each for each in every)


def test_feedback_names_the_answer_only_where_an_improver_learns(words: Reasoning) -> None:
    verifier = ReasoningVerifier()
    feedback = {
        split: [verifier.score(each, {"answer": "?"}, context()).feedback for each in words.instances(split)[:9]]
        for split in SPLITS
    }
    assert all("wrong: it is " in each for each in feedback["search"])
    assert not any(feedback["gate"] + feedback["sealed"])


def test_an_instance_of_another_seed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no case 'nothing' in words with seed 0"):
        ReasoningVerifier().score(Instance("nothing", "gate", {"question": "?"}), {"answer": "1"}, context())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sealed": "500"}, r"words has 424 sums .* 772 are asked for; make the splits smaller .*\"largest\": 24"),
        ({"search": "many"}, r"--set search=many: say how many questions, from 1 to 10,000"),
        ({"gate": 0}, r"--set gate=0"),
        ({"difficulty": "hard"}, r"--set difficulty=hard: write a JSON object"),
        ({"difficulty": "[1]"}, r"write a JSON object"),
        ({"difficulty": {"terms": 3}}, r"words has no difficulty setting terms; it has: largest"),
        ({"difficulty": {"largest": 5}}, r"largest of words is a whole number from 12 to 99, not 5"),
        ({"difficulty": {"largest": True}}, r"not True"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Reasoning(**settings)
