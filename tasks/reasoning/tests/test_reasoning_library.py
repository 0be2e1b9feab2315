"""The data sets of reasoning-gym: dealt without repetitions, scored apart, and safe from what an answer says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.types import Instance, Score
from sia_reasoning import library_process
from sia_reasoning.cases import SPLITS, plain
from sia_reasoning.guard import ARITHMETIC, BOARDS, CALCULUS, objection
from sia_reasoning.library import Library
from sia_reasoning.library_process import LibraryProcess, LibraryRefused
from sia_reasoning.task import Reasoning
from sia_reasoning.verifier import ReasoningVerifier
from sia_testing.verifiers import context

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="takes sia-reasoning[gym]"),
]

SIZES = {"search": 4, "gate": 4, "sealed": 4}
SOME = (
    *("chain_sum", "basic_arithmetic", "leg_counting", "letter_counting", "word_sorting", "simple_equations"),
    *("countdown", "simple_integration", "n_queens", "codeio", "syllogism", "tower_of_hanoi"),
    *("graph_color", "propositional_logic", "rubiks_cube"),
)
WITHOUT_ANSWER = {"boxnet", "intermediate_integration", "rush_hour"}
"""Data sets that have no right answer to show for some questions."""

SLOW = {"futoshiki", "knight_swap", "sokoban"}
"""Making a question takes about a second."""


def names() -> list[str]:
    """Every data set, without importing the library here."""
    with pytest.raises(UsageError) as error:
        Reasoning("?" * 9)
    return str(error.value).partition("there are: ")[2].split(", ")


def labelled(task: Reasoning) -> list[tuple[Instance, str]]:
    answers = {row["id"]: row["answer"] for row in task._labelled(SPLITS)}
    return [(each, answers[each.id]) for split in SPLITS for each in task.instances(split) if each.id in answers]


def score(task: Reasoning, instance: Instance, answer: str) -> Score:
    return ReasoningVerifier(**task.verifier.settings).score(instance, {"answer": answer}, context())


def check(dataset: str) -> None:
    """Splits share no question, and every answer that the data set calls right earns 1."""
    task = Reasoning(dataset, **SIZES)
    every = [plain(each.input["question"]) for split in SPLITS for each in task.instances(split)]
    assert len(set(every)) == len(every) == 20
    examples = labelled(task)
    assert len(examples) == 20 or dataset in WITHOUT_ANSWER
    verifier = ReasoningVerifier(**task.verifier.settings)
    assert [verifier.score(each, {"answer": answer}, context()).reward for each, answer in examples] == [1.0] * len(
        examples
    )


@pytest.mark.parametrize("dataset", SOME)
def test_its_own_answers_earn_everything(dataset: str) -> None:
    check(dataset)


@pytest.mark.exhaustive
def test_so_it_is_with_every_data_set() -> None:
    every = names()
    assert len(every) > 100
    for dataset in sorted({*every} - {*SOME, *SLOW, "words"}):
        try:
            check(dataset)
        except Exception as error:
            raise AssertionError(f"{dataset}: {error}") from error


def test_seeds_next_to_each_other_share_few_questions() -> None:
    first, second = (
        {each.input["question"] for split in SPLITS for each in Reasoning("leg_counting", seed=seed).instances(split)}
        for seed in (0, 1)
    )
    assert len(first & second) < 20


@pytest.mark.parametrize("dataset", ["isomorphic_strings", "polynomial_multiplication", "ransom_note"])
def test_a_data_set_that_depends_on_the_order_of_sets_is_the_same_in_every_process(
    dataset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs = []
    for number in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", number)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / number))
        task = Reasoning(dataset, **SIZES)
        inputs.append([[each.input for each in task.instances(split)] for split in SPLITS])
    assert inputs[0] == inputs[1]


def test_a_data_set_with_few_questions_repeats_none() -> None:
    task = Reasoning("coin_flip", search=60, gate=60, sealed=60)
    every = [each.input["question"] for split in SPLITS for each in task.instances(split)]
    assert len(set(every)) == len(every) == 188


def test_one_with_too_few_says_how_many() -> None:
    with pytest.raises(UsageError, match=r"chain_sum gave 200 different questions, and 308 are asked for"):
        Reasoning("chain_sum", '{"max_terms": 2, "max_digits": 1}', search=100, gate=100, sealed=100)


def test_difficulty_changes_the_questions() -> None:
    easy = Reasoning("chain_sum", '{"max_terms": 2, "max_digits": 1}', **SIZES)
    assert all(sum(map(each.input["question"].count, "+-")) == 1 for each in easy.instances("sealed"))
    assert easy.fingerprint != Reasoning("chain_sum", **SIZES).fingerprint


@pytest.mark.parametrize(
    ("dataset", "difficulty", "says"),
    [
        ("chain_sums", "{}", r"no data set named 'chain_sums' \(did you mean 'chain_sum'\?\)"),
        ("xyzzy", "{}", r"no data set named 'xyzzy'; there are: words, ab, acre, .*zebra_puzzles"),
        ("composite", "{}", r"no data set named 'composite'"),
        ("chain_sum", '{"terms": 3}', r"no difficulty setting terms; .* settings are: allow_negation, max_digits"),
        ("chain_sum", '{"seed": 3}', r"no difficulty setting seed"),
        ("chain_sum", '{"min_terms": 9}', r"max_terms must be >= min_terms"),
        ("chain_sum", '{"min_terms": "many"}', r"not supported between instances of 'str' and 'int'"),
    ],
)
def test_what_the_library_does_not_take_is_said_in_its_words(dataset: str, difficulty: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Reasoning(dataset, difficulty, **SIZES)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_reasoning.library.version", _missing)
    with pytest.raises(UsageError, match=r"pip install 'sia-reasoning\[gym\]'"):
        Reasoning("chain_sum")


def _missing(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    first = Reasoning("chain_sum", **SIZES)
    (file,) = (tmp_path / "cache/sia/reasoning").glob("*.json")
    file.write_text("{")
    again = Reasoning("chain_sum", **SIZES)
    assert again.instances("sealed") == first.instances("sealed")


def test_what_is_kept_holds_no_answer_but_the_public_ones(tmp_path: Path) -> None:
    task = Reasoning("letter_jumble", **SIZES)
    (file,) = (tmp_path / "cache/sia/reasoning").glob("*.json")
    text = json.loads(file.read_text())
    assert set(text["shown"]) == {each.id for each in task.instances("public")}
    hidden = [(each, answer) for each, answer in labelled(task) if each.split != "public"]
    assert not [answer for _, answer in hidden if answer in file.read_text()]


def test_nothing_but_its_own_process_imports_the_library() -> None:
    code = (
        "import sys; from sia_reasoning.task import Reasoning\n"
        "task = Reasoning('chain_sum', search=4, gate=4, sealed=4)\n"
        "from sia_reasoning.verifier import ReasoningVerifier; from sia_testing.verifiers import context\n"
        "ReasoningVerifier(**task.verifier.settings).score(task.instances('gate')[0], {'answer': '1'}, context())\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('reasoning_gym', 'sympy', 'matplotlib')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


HOSTILE = {
    "long": "9" * 1_000_000,
    "null": "5\x00",
    "half a character": "\ud800",
    "brackets": "[" * 9_999,
    "round brackets": "(" * 1_999,
    "power": "9**9**9",
    "powers": "((((9**99)**99)**99)**99)**99",
    "factorials": "((((9!)!)!)!)!",
    "exponent": "1e999999999",
    "call": "__import__('os').system('touch {marker}')",
    "list of calls": "[__import__('os').system('touch {marker}')]",
    "hidden call": "().__class__.__base__.__subclasses__()",
    "f-string": 'f\'{{__import__("os").system("touch {marker}")}}\'',
    "nothing": "",
    "regular": "a" * 9_000 + "!",
    "infinite": "inf",
    "json": '{"a": ' * 900,
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """A verifier and an instance of data sets with scorers of every kind."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    rows = []
    for dataset in ("chain_sum", "countdown", "simple_integration", "n_queens", "fraction_simplification", "jugs"):
        task = Reasoning(dataset, **SIZES)
        rows.append((dataset, ReasoningVerifier(**task.verifier.settings), task.instances("search")[0]))
        rows[-1][1]._cases  # noqa: B018 - read while the cache is this one
    yield rows
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_earns_nothing_worth_having_and_runs_nothing(
    kind: str, tasks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_process, "SCORE_SECONDS", 10)
    marker = tmp_path / "marker"
    answer = HOSTILE[kind].replace("{marker}", str(marker))
    for dataset, verifier, instance in tasks:
        result = verifier.score(instance, {"answer": answer}, context())
        assert 0 <= result.reward <= 0.05, dataset
    assert not marker.exists()


@pytest.mark.parametrize("dataset", sorted(CALCULUS | ARITHMETIC | BOARDS))
def test_right_answers_of_data_sets_that_evaluate_pass_the_guard(dataset: str) -> None:
    with LibraryProcess(dataset, {}, 7, 90) as process:
        refused = [each["answer"] for each in process.entries(0, 60) if objection(dataset, each["answer"])]
    # The library leaves some integrals as they are; whoever answers so has integrated nothing.
    assert not [answer for answer in refused if "Integral(" not in answer]


def test_no_other_scorer_evaluates_what_it_is_given() -> None:
    """The list of data sets that do, compared with the library's source."""
    spec = find_spec("reasoning_gym")
    assert spec is not None
    assert spec.origin is not None
    evaluating = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        body = path.read_text(encoding="utf-8").partition("def score_answer")[2].partition("\n    def ")[0]
        if any(word in body for word in ("eval(answer", "parse_expr(answer", "exec(", "sympify(answer", "S(answer")):
            evaluating.add(path.stem)
    assert evaluating == {*BOARDS, *ARITHMETIC, *CALCULUS}


def test_a_scorer_that_does_not_end_is_ended_and_the_next_answer_is_scored() -> None:
    process = LibraryProcess("chain_sum", {}, 7, 20)
    question, right = process.entries(3, 4)[0].values()
    assert process._process is not None
    process._process.kill()
    with pytest.raises(library_process.LibraryStopped):
        process.score(3, question, right)
    assert process.score(3, question, right) == (1.0, "")
    process.close()


def test_an_entry_that_is_another_one_by_now_is_never_scored() -> None:
    with LibraryProcess("chain_sum", {}, 7, 20) as process, pytest.raises(LibraryRefused, match="other questions"):
        process.score(3, "another question", "5")


def test_a_library_is_one_source_among_others() -> None:
    library = Library("chain_sum", {}, 0, {"public": 8, **SIZES})
    assert library.numeric
    assert not Library("word_sorting", {}, 0, {"public": 8, **SIZES}).numeric
    assert "chain_sum" in library.about
