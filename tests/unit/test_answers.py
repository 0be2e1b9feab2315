"""Answers of untrusted code are read strictly: one meaning, finite numbers, and no way to crash later code."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel

from sia_core.run.ledger import canonical
from sia_runtime.answers import MAX_DEPTH, MAX_DIGITS, InvalidAnswer, read_answer, strict_json


class Anything(RootModel[Any]):
    pass


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = 1
    rate: float = 0.5
    name: str = "x"
    how: Literal["fast", "slow"] = "fast"
    deep: list[dict[str, float]] = Field(default_factory=list)


NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text('aé条😀\\"[{', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab[", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_it_is(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert strict_json(text) == value
    assert read_answer(text, Anything) == value


@given(st.text('[]{}",:0123e-\\u dtrue', max_size=30))
def test_whatever_the_text_the_only_error_is_an_invalid_answer(text: str) -> None:
    try:
        value = read_answer(text, Anything)
    except InvalidAnswer:
        return
    assert json.loads(canonical(value)) == value


DEEP = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
BAD = {
    "the same key twice": ('{"a": 1, "a": 1}', "the same key twice"),
    "the same key twice, deep inside": ('[{"b": {"a": 1, "a": 2}}]', "the same key twice"),
    "the same key twice, spelt in two ways": ('{"a": 1, "\\u0061": 1}', "the same key twice"),
    "NaN": ("NaN", "NaN is not a number here"),
    "infinity": ("[Infinity]", "Infinity is not a number here"),
    "minus infinity": ('{"a": -Infinity}', "-Infinity is not a number here"),
    "an infinity in digits": ("1e999", "1e999 is not a finite number"),
    "another infinity in digits": ("[-1E+400]", "-1E+400 is not a finite number"),
    "a long infinity in digits": ("9" * 400 + ".5", "is not a finite number"),
    "a huge integer": ("9" * 400, "an integer has 400 digits"),
    "an integer that Python does not read": ("-" + "9" * 5000, "an integer has 5001 digits"),
    "too deep": (DEEP, "nested deeper than 64 levels"),
    "too deep by objects": ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
    "so deep that a parser would overflow": ("[" * 500_000, "nested deeper than 64 levels"),
    "deep behind brackets in a string": ('["' + "]" * 100 + '",' + DEEP + "]", "nested deeper than 64 levels"),
    "deep behind an escaped quote": ('["\\"]]]]]]]]",' + DEEP + "]", "nested deeper than 64 levels"),
    "half a character": ('"\\ud800"', "not Unicode"),
    "half a character as a key": ('{"\\udfff": 1}', "not Unicode"),
    "half a character deep inside": ('[[{"a": "b\\uD83D!"}]]', "not Unicode"),
    "half a character, not escaped": ('"\ud800"', "not Unicode"),
    "nothing": ("", "not JSON"),
    "words": ("forty-two", "not JSON"),
    "two values": ("1 2", "not JSON"),
    "a value that does not end": ('{"a": [1', "not JSON"),
    "a string that does not end": ('"abc', "not JSON"),
    "a control character in a string": ('"a\nb"', "not JSON"),
    "a byte order mark": ("\ufeff1", "not JSON"),
    "hexadecimal": ("0x10", "not JSON"),
    "a comment": ("1 // one", "not JSON"),
    "a comma too many": ("[1,]", "not JSON"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_strict_json_is_invalid(what: str) -> None:
    text, says = BAD[what]
    for reader in (strict_json, lambda text: read_answer(text, Anything)):
        with pytest.raises(InvalidAnswer) as raised:
            reader(text)
        assert says in str(raised.value)
        assert len(str(raised.value)) < 400


GOOD: dict[str, tuple[str, Any]] = {
    "as deep as may be": ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    "brackets in a string": (json.dumps("[{" * 500), "[{" * 500),
    "brackets behind an escaped quote": (json.dumps('"' + "[" * 500), '"' + "[" * 500),
    "brackets behind an escaped backslash": (json.dumps(["\\", "[" * 500]), ["\\", "[" * 500]),
    "many small objects": (json.dumps([{"a": [1]}] * 200), [{"a": [1]}] * 200),
    "a pair of surrogates": ('"\\ud83d\\ude00"', "😀"),
    "the name of half a character": ('"\\\\ud800"', "\\ud800"),
    "a large integer": ("9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
    "the largest float": ("1.7976931348623157e308", 1.7976931348623157e308),
    "a number that rounds to zero": ("1e-999", 0.0),
    "a zero byte": ('"\\u0000"', "\0"),
    "U+2028": ('"a\u2028b"', "a\u2028b"),
    "white space around": (" \n[1]\t ", [1]),
}


@pytest.mark.parametrize("what", GOOD)
def test_what_looks_odd_and_is_json_is_read(what: str) -> None:
    text, value = GOOD[what]
    answer = read_answer(text, Anything)
    assert answer == (json.loads(text) if value is None else value)
    assert json.loads(canonical(answer).encode()) == answer


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 500_000 + "1]",
        "[" + '{"a":[1]},' * 100_000 + "1]",
        '"' + '\\"' * 500_000 + '"',
        '["' + "[" * 10**6 + '"]',
    ],
    ids=["a flat array", "many objects", "escaped quotes", "a string of brackets"],
)
def test_a_megabyte_is_read(text: str) -> None:
    assert strict_json(text)


# The task's model


def test_a_model_fills_in_its_defaults() -> None:
    assert read_answer('{"width": 3}', Plan) == {"width": 3, "rate": 0.5, "name": "x", "how": "fast", "deep": []}
    assert read_answer('{"rate": 1}', Plan)["rate"] == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"width": true}', "width: Input should be a valid integer"),
        ('{"width": "3"}', "width: Input should be a valid integer"),
        ('{"width": 3.0}', "width: Input should be a valid integer"),
        ('{"width": null}', "width: Input should be a valid integer"),
        ('{"rate": false}', "rate: Input should be a valid number"),
        ('{"rate": "0.5"}', "rate: Input should be a valid number"),
        ('{"name": 3}', "name: Input should be a valid string"),
        ('{"how": "slowly"}', "how: Input should be 'fast' or 'slow'"),
        ('{"deep": [{"a": "1"}]}', "deep.0.a: Input should be a valid number"),
        ('{"depth": 1}', "depth: Extra inputs are not permitted"),
        ("[]", "Input should be an object"),
        ("null", "Input should be an object"),
    ],
)
def test_an_answer_that_the_model_refuses_is_invalid_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InvalidAnswer) as raised:
        read_answer(text, Plan)
    assert says in str(raised.value)


class Level(IntEnum):
    LOW, HIGH = 0, 1


class Choice(BaseModel):
    level: Level = Level.LOW
    count: Literal[1, 2] = 1
    sure: Literal[True] = True
    named: Literal[0, 1] = Field(0, alias="as")
    many: list[Literal[0, 1]] = []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"level": true}', "level"),
        ('{"count": true}', "count"),
        ('{"sure": 1}', "sure"),
        ('{"sure": 1.0}', "sure"),
        ('{"as": false}', "as"),
        ('{"many": [0, 1, true]}', "many.2"),
    ],
)
def test_a_boolean_is_no_number_where_a_model_lists_its_values(text: str, where: str) -> None:
    with pytest.raises(InvalidAnswer, match=f"{where}: a boolean is no number"):
        read_answer(text, Choice)


def test_listed_values_are_read() -> None:
    text = '{"level": 1, "count": 2, "sure": true, "as": 1, "many": [1, 0]}'
    assert read_answer(text, Choice) == {"level": 1, "count": 2, "sure": True, "named": 1, "many": [1, 0]}


@given(st.integers(-(10**400), 10**400) | st.floats(allow_nan=False))
def test_no_number_becomes_an_infinity_in_a_model(number: float) -> None:
    try:
        answer = read_answer(json.dumps({"rate": number}), Plan)
    except InvalidAnswer:
        return
    canonical(answer)
