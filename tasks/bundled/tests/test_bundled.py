"""The three tasks keep the contracts, score as the released scripts do, and read no sealed label too soon."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sia_bundled import plugin
from sia_bundled.bundled import SPLITS, Bundled, Right, Source
from sia_bundled.passengers import SEALED, Titanic, TitanicVerifier
from sia_bundled.questions import Chess, ChessVerifier, Gpqa, GpqaVerifier
from sia_cli import main
from sia_core.errors import UsageError
from sia_core.types import Instance, Score
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract, context

KINDS: Mapping[str, tuple[type[Bundled], type[Right]]] = {
    "gpqa": (Gpqa, GpqaVerifier),
    "chess": (Chess, ChessVerifier),
    "titanic": (Titanic, TitanicVerifier),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def data(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(kind))


class TestTasks(TaskContract):
    @pytest.fixture
    def make(self, kind: str, data: str) -> Callable[[int], Bundled]:
        return lambda seed: KINDS[kind][0](data, seed)


class TestVerifiers(VerifierContract):
    @pytest.fixture
    def make(self, kind: str, data: str) -> Callable[[], Right]:
        return lambda: KINDS[kind][1](data)

    @pytest.fixture
    def judged(self, kind: str, data: str) -> list[Judged]:
        task = KINDS[kind][0](data)
        cases = {case.id: case for case in task._data.cases["gate"]}
        truth = task._data.truth("gate")
        right = {id: task._data.answer(truth[case.key]) for id, case in cases.items()}
        return [Judged(each, right[each.id], another(right[each.id])) for each in task.instances("gate")]


def another(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer that is wrong."""
    wrong = {"A": "B", "B": "C", "C": "D", "D": "A", True: False, False: True}
    ((name, value),) = answer.items()
    if isinstance(value, list):
        return {name: value[:-1]}
    return {name: wrong.get(value, 1)}


def scored(verifier: Right, instance: Instance, answer: Any) -> Score:
    return verifier.score(instance, answer, context())


def test_moves_count_in_any_order_and_numbers_as_such(chess: Path) -> None:
    verifier = ChessVerifier(str(chess))
    task = Chess(str(chess))
    by_kind = {each.input["template"]: each for each in task.instances("search")}
    moves, knight = by_kind["best_3_moves"], by_kind["knight_path"]
    truth = {case.id: task._data.truth("search")[case.key] for case in task._data.cases["search"]}
    assert scored(verifier, moves, {"solution": truth[moves.id][::-1]}).reward == 1
    assert scored(verifier, moves, {"solution": [*truth[moves.id], "Ke2"]}).reward == 0
    assert scored(verifier, moves, {"solution": 3}).reward == 0
    assert scored(verifier, knight, {"solution": int(truth[knight.id])}).reward == 1
    assert scored(verifier, knight, {"solution": ["e4"]}).reward == 0


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (Gpqa.answer, {"answer": "E"}),
        (Gpqa.answer, {"answer": "A", "why": "so"}),
        (Chess.answer, {"solution": None}),
        (Titanic.answer, {"transported": "True"}),
    ],
)
def test_an_answer_of_another_shape_is_refused(model: Any, wrong: Any) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(wrong, strict=True)


def test_feedback_names_the_truth_only_where_an_improver_learns(kind: str, data: str) -> None:
    task, verifier = KINDS[kind][0](data), KINDS[kind][1](data)
    answer = {"gpqa": {"answer": "A"}, "chess": {"solution": []}, "titanic": {"transported": True}}[kind]
    feedback = {split: [scored(verifier, each, answer).feedback for each in task.instances(split)] for split in SPLITS}
    assert all(feedback["search"])
    assert not any(feedback["gate"] + feedback["sealed"])


def test_the_labels_of_sealed_passengers_are_read_by_the_verifier_alone(
    titanic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, original = [], Source.read

    def spy(self: Source, name: str) -> bytes:
        opened.append(name)
        return original(self, name)

    monkeypatch.setattr(Source, "read", spy)
    task = Titanic(str(titanic))
    for split in SPLITS:
        task.instances(split)
    task.public_dir(("public", "search", "gate"))
    assert SEALED not in opened
    verifier = TitanicVerifier(str(titanic))
    scored(verifier, task.instances("gate")[0], {"transported": True})
    assert SEALED not in opened
    scored(verifier, task.instances("sealed")[0], {"transported": True})
    assert SEALED in opened


def test_passengers_are_dealt_out_in_proportion(titanic: Path) -> None:
    task = Titanic(str(titanic))
    assert [len(task.instances(split)) for split in SPLITS] == [160, 140, 100, 60]
    assert [each.id for each in task.instances("gate")] != [
        each.id for each in Titanic(str(titanic), 1).instances("gate")
    ]


def test_what_is_missing_is_named(tmp_path: Path, gpqa: Path) -> None:
    with pytest.raises(UsageError, match=r"gpqa: --data .* holds neither .*whl nor a folder data"):
        Gpqa(str(tmp_path / "nowhere"))
    (gpqa / "data/public/diamond_questions.json").write_text("{")
    with pytest.raises(UsageError, match=r"gpqa: public/diamond_questions.json in .* is malformed"):
        Gpqa(str(gpqa))


def test_the_entry_module_is_light_and_names_what_exists() -> None:
    heavy = ["sklearn", "numpy", "pydantic", "sia_bundled.bundled"]
    code = f"import sys, sia_bundled.plugin; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    for offer in [*plugin.sia_tasks(), *plugin.sia_verifiers()]:
        assert pkgutil.resolve_name(offer.factory)


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> dict[str, Any]:
    assert main(["run", *options, "--json", "--runs-dir", str(folder / "runs")]) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.real
@pytest.mark.slow
def test_the_real_questions_and_passengers_are_as_many_as_the_readme_says() -> None:
    counts = {each.name: [len(each().instances(split)) for split in SPLITS] for each in (Gpqa, Chess, Titanic)}
    assert counts == {
        "gpqa": [0, 66, 66, 66],
        "longcot-chess": [0, 17, 16, 17],
        "spaceship-titanic": [3129, 2738, 1956, 870],
    }
    letters = Counter(Gpqa()._data.truth("sealed").values())
    assert set(letters) == set("ABCD")


@pytest.mark.real
@pytest.mark.slow
def test_spaceship_titanic_is_improved_end_to_end_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(capsys, tmp_path, "--plugin", "spaceship-titanic", "--generations", "4")
    sealed = report["sealed"]
    assert sealed["initial"]["value"] < 0.6
    assert sealed["final"]["value"] > 0.75
    assert any(row["accepted"] for row in report["generations"])
