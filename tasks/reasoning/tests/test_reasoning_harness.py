"""The seed harness and the catalogue of edits: each runs, and does what its summary says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import cycle, permutations
from types import ModuleType
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.harness import applies, apply_edits
from sia_reasoning.cases import SPLITS
from sia_reasoning.task import Reasoning
from sia_reasoning.words import Words

PLAYBOOK = Reasoning().playbook()
SEED = Reasoning().seed_harness()
EDITS = {entry.name: entry.change for entry in PLAYBOOK.edit}
FAMILY = {entry.name: entry.family for entry in PLAYBOOK.edit}
ON_SEED = [name for name, edits in EDITS.items() if applies(SEED, edits)]

Try = Callable[..., Any]


def says(*replies: str) -> Callable[[list[dict[str, str]]], str]:
    """A model with these replies, over and over."""
    next_one = cycle(replies)
    return lambda messages: next(next_one)


def test_the_seed_asks_once_with_few_tokens_and_takes_the_last_number(words: Reasoning, tried: Try) -> None:
    result = tried(words, says("nine minus 4 is 5."), ["nine minus four"])
    assert result.answers == ["5"]
    (request,) = result.requests
    assert [each["role"] for each in request["messages"]] == ["system", "user"]
    assert request["max_tokens"] == 12
    assert request["temperature"] == 0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("-7", "-7"), ("It is 1,234.", "1234"), ("3.50", "3.50"), ("no idea", ""), ("", ""), ("5, or 6,", "6")],
)
def test_numbers_are_read_as_people_write_them(words: Reasoning, tried: Try, reply: str, answer: str) -> None:
    assert tried(words, says(reply), ["nine minus four"]).answers == [answer]


def test_without_a_model_it_answers_nothing(words: Reasoning, tried: Try) -> None:
    assert tried(words, None, ["nine minus four"]).answers == [""]


def test_where_answers_are_no_numbers_the_last_line_counts(
    words: Reasoning, tried: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Words, "numeric", False)
    words._tokens = 96
    result = tried(words, says("Let me see: 3 words.\napple, pear \n\n"), ["sort: pear apple"])
    assert result.answers == ["apple, pear"]
    assert result.requests[0]["max_tokens"] == 96


@pytest.mark.parametrize(("settings", "tokens"), [({}, 12), ({"tokens": "40"}, 40)])
def test_a_reply_is_as_long_as_the_setting_says(tried: Try, settings: dict[str, str], tokens: int) -> None:
    result = tried(Reasoning(**settings), says("5"), ["nine minus four"])
    assert result.requests[0]["max_tokens"] == tokens


@pytest.mark.parametrize("tokens", ["0", "many", "-1"])
def test_a_length_that_is_none_is_refused(tokens: str) -> None:
    with pytest.raises(UsageError, match=f"--set tokens={tokens}: say how many new tokens a reply has, from 1 to"):
        Reasoning(tokens=tokens)


def test_the_harness_needs_the_standard_library_alone() -> None:
    own = {path.removesuffix(".py") for path in SEED.files}
    for path, content in SEED.files.items():
        if path.endswith(".py"):
            lines = [line.split() for line in content.decode().splitlines() if line]
            imported = {words[1] for words in lines if words[0] in ("import", "from")}
            assert imported <= {*sys.stdlib_module_names, *own}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_runs_and_is_not_applied_twice(name: str, words: Reasoning, tried: Try) -> None:
    before = [] if name in ON_SEED else ["worked-examples"]
    tree = SEED
    for each in before:
        tree = apply_edits(tree, EDITS[each])
    edited = apply_edits(tree, EDITS[name])
    assert edited.manifest == SEED.manifest
    assert not applies(edited, EDITS[name]) or apply_edits(edited, EDITS[name]).digest == edited.digest
    assert tried(words, says("5"), ["nine minus four"], *before, name).answers == ["5"]


def test_there_are_so_few_families_that_two_generations_of_three_try_one_of_each() -> None:
    assert len({FAMILY[name] for name in ON_SEED}) <= 6


def test_edits_of_different_families_apply_in_either_order() -> None:
    for first, second in permutations(ON_SEED, 2):
        if FAMILY[first] != FAMILY[second] and "decompose" not in (first, second):  # it changes prompt and length both
            assert applies(apply_edits(SEED, EDITS[first]), EDITS[second]), f"{second} after {first}"


def test_no_example_is_a_question_of_a_split_that_decides(words: Reasoning, tried: Try) -> None:
    hidden = {each.input["question"] for split in SPLITS[1:] for each in words.instances(split)}
    for names in (["calculator"], ["worked-examples"], ["worked-examples", "eight-examples"]):
        (request,) = tried(words, says("5"), ["nine minus four"], *names).requests
        examples = {each["content"] for each in request["messages"][1:-1]}
        assert examples
        assert not examples & hidden


def test_worked_examples_are_public_questions_with_right_answers(words: Reasoning, tried: Try) -> None:
    (request,) = tried(words, says("5"), ["nine minus four"], "worked-examples").requests
    pairs = [each["content"] for each in request["messages"][1:-1]]
    labels = {row["question"]: row["answer"] for row in words._labelled(("public",))}
    assert len(pairs) == 8
    assert all(labels[question] == answer for question, answer in zip(pairs[::2], pairs[1::2], strict=True))


def test_worked_examples_stay_the_same_when_labelled_cases_join_the_public_ones(words: Reasoning) -> None:
    first = (words.public_dir(("public",)) / "cases.jsonl").read_text()
    later = (words.public_dir(("search", "gate", "public")) / "cases.jsonl").read_text()
    assert later.startswith(first)


def test_the_calculator_computes_what_the_model_writes(words: Reasoning, tried: Try) -> None:
    replies = [
        "9 - 4",
        "6 * 12 = 70",
        "(2 + 3) * 4",
        "The answer is 17",
        "none",
        "-3 * 2",
        "7 / 2",
        "1 / 0",
        "1,000 + 1",
    ]
    result = tried(words, says(*replies), ["?"] * len(replies), "calculator")
    assert result.answers == ["5", "72", "20", "17", "", "-6", "3.5", "0", "1001"]


@pytest.fixture
def calculator(tmp_path: Any) -> ModuleType:
    """The module that the edit brings in."""
    tree = apply_edits(SEED, EDITS["calculator"])
    module = ModuleType("calculator")
    exec(compile(tree.text("calculator.py"), "calculator.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("-3 - -4", 1), ("1 / 3 + 2 / 3", 1), ("0.1 + 0.2", Fraction(3, 10))],
)
def test_an_expression_has_its_exact_value(calculator: ModuleType, expression: str, value: Any) -> None:
    assert calculator.evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9 ** 2",
        "__import__('os').system('true')",
        "().__class__",
        "[1, 2]",
        "'a' * 9",
        "True + 1",
        "1j",
        "1 / 0",
        "1e308 * 1e308",
        "999999999 * 999999999",
        "(" * 150 + "1" + ")" * 150,
        "-" * 150 + "1",
        "1 +" * 66 + "1",
        "1" * 201,
        "1\x00",
        "\ud800",
        "1 if 1 else 2",
        "1; 2",
        "",
        "08",
        "lambda: 1",
    ],
)
def test_what_is_no_small_arithmetic_is_refused(calculator: ModuleType, expression: str) -> None:
    with pytest.raises(ArithmeticError):
        calculator.evaluate(expression)


@pytest.mark.parametrize("reply", ["9" * 1_000_000, "(" * 100_000, "1+" * 100_000, "-(" * 50_000, "9**9**9", "\x00"])
def test_a_hostile_reply_costs_the_calculator_nothing(calculator: ModuleType, reply: str) -> None:
    assert calculator.computed(reply) is None


def test_the_vote_takes_what_most_replies_say(words: Reasoning, tried: Try) -> None:
    result = tried(words, says("4", "5", "6", "5", "7"), ["nine minus four"], "vote")
    assert result.answers == ["5"]
    assert [each["temperature"] for each in result.requests] == [0.7] * 5


def test_decomposition_has_room_to_think(words: Reasoning, tried: Try) -> None:
    (request,) = tried(words, says("5"), ["nine minus four"], "decompose").requests
    assert request["max_tokens"] == 48


def test_other_places_to_read(words: Reasoning, tried: Try) -> None:
    assert tried(words, says("9 - 4 = 5"), ["?"], "first-found").answers == ["9"]
    assert tried(words, says("The answer is 5, not 6 of 7"), ["?"]).answers == ["7"]
    assert tried(words, says("9 minus 4 is 5"), ["?"], "after-the-word-is").answers == ["5"]
    assert tried(words, says("The result is"), ["?"], "after-the-word-is").answers == [""]


def test_data_sets_of_numbers_get_worked_expressions_of_their_kind(words: Reasoning) -> None:
    words._expressions = [("What is 3 times 4?", "3 * 4")]
    (calculator,) = [entry for entry in words.playbook().edit if entry.name == "calculator"]
    assert 'EXAMPLES = [\n    ("What is 3 times 4?", "3 * 4"),\n]' in calculator.change[0].text  # type: ignore[union-attr]
