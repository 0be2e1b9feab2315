"""Task folders of the released SIA: how questions are dealt out, what an agent sees, what its answers are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from released import AGENT, EVALUATE, task_folder

from sia_core.errors import SiaError, UsageError
from sia_core.types import Instance, Metric, Score
from sia_released.rows import table
from sia_released.task import Folder
from sia_released.verifier import Evaluate
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract, context

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "larger")


def answers(instance: Instance, right: bool = True) -> dict[str, dict[str, str]]:
    choices = {}
    for question in json.loads(instance.input["files"]["questions.json"]):
        a, b = question["numbers"]
        choices[question["question_id"]] = "first" if (a > b) == right else "second"
    return {"files": {"answers.json": json.dumps(choices)}}


@pytest.mark.real
class TestFolder(TaskContract):
    @pytest.fixture
    def make(self, folder: Path) -> Callable[[int], Folder]:
        return lambda seed: Folder(str(folder), seed)


@pytest.mark.real
class TestEvaluate(VerifierContract):
    @pytest.fixture
    def make(self, folder: Path) -> Callable[[], Evaluate]:
        return lambda: Evaluate(str(folder))

    @pytest.fixture
    def judged(self, folder: Path) -> list[Judged]:
        instances = Folder(str(folder)).instances("search")[:2]
        return [Judged(each, answers(each), answers(each, right=False)) for each in instances]


def scored(folder: Path, answer: Mapping[str, object] | None = None, **settings: str) -> Score:
    instance = Folder(str(folder)).instances("search")[0]
    return Evaluate(str(folder), **settings).score(instance, answer or answers(instance), context())


def test_each_question_is_in_one_part_of_one_split(folder: Path) -> None:
    task = Folder(str(folder))
    parts = {split: task.instances(split) for split in ("public", "search", "gate", "sealed")}
    assert [len(each) for each in parts.values()] == [0, 32, 32, 32]
    questions = [
        question["question_id"]
        for instances in parts.values()
        for each in instances
        for question in json.loads(each.input["files"]["questions.json"])
    ]
    assert len(questions) == len(set(questions)) == 96
    assert len(Folder(str(folder), items="8").instances("gate")) == 4


def test_the_public_folder_shows_all_but_the_questions_and_later_what_is_known_of_some(folder: Path) -> None:
    task = Folder(str(folder))
    public = task.public_dir(("public",))
    assert sorted(path.name for path in public.iterdir()) == ["evaluate.py", "examples.csv", "task.md"]
    later = task.public_dir(("public", "search", "gate")) / "labelled"
    labels, questions = (json.loads((later / name).read_text()) for name in ("answers.json", "questions.json"))
    assert len(labels) == len(questions) == 64


@pytest.mark.real
def test_a_part_is_scored_by_the_folders_own_script_and_its_words_are_feedback_on_search_alone(folder: Path) -> None:
    task, verifier = Folder(str(folder)), Evaluate(str(folder))
    search, gate = task.instances("search")[0], task.instances("gate")[0]
    assert verifier.score(search, answers(search), context()).feedback.startswith("right: 1")
    assert verifier.score(gate, answers(gate), context()) == Score(1.0)


@pytest.mark.real
def test_an_answer_without_the_file_is_not_valid_and_says_why(folder: Path) -> None:
    score = scored(folder, {"files": {"other.json": "{}"}})
    assert (score.reward, score.valid) == (0.0, False)
    assert "answers.json" in score.feedback


@pytest.mark.real
def test_results_that_the_agent_wrote_itself_are_not_read(folder: Path) -> None:
    score = scored(folder, {"files": {"results.json": '{"accuracy": 1.0}'}})
    assert (score.reward, score.valid) == (0.0, False)


@pytest.mark.parametrize("name", ["../task/data/private/answers.json", "/etc/x", "a/../../b", "a\\b"])
def test_files_that_lead_elsewhere_make_an_answer_invalid(name: str, folder: Path) -> None:
    assert not scored(folder, {"files": {name: "{}"}}).valid


def test_a_metric_may_be_to_minimise(folder: Path) -> None:
    task = Folder(str(folder), metric="loss:min:0,5")
    assert task.metric == Metric("loss", "minimize", bounds=(0.0, 5.0))
    assert task.failure_reward == 5.0
    assert Folder(str(folder)).failure_reward == 0.0


@pytest.mark.real
def test_a_metric_is_named_and_scaled(folder: Path) -> None:
    percent = EVALUATE.replace("right / len(truth),", "100 * right / len(truth),")
    (folder / "data/public/evaluate.py").write_text(percent)
    assert scored(folder, scale="100").reward == 1.0
    assert scored(folder, metric="accuracy:min:0,100").reward == 100.0
    with pytest.raises(SiaError, match=r"no number 'f1' but accuracy, questions; name one with --set metric="):
        scored(folder, metric="f1")


def test_a_script_that_cannot_run_here_is_said_before_anything_is_scored(folder: Path) -> None:
    (folder / "data/public/evaluate.py").write_text("import a_module_of_nobody\n")
    with pytest.raises(UsageError, match="imports a_module_of_nobody, which is not installed here"):
        Evaluate(str(folder))


def test_a_folder_that_lacks_something_is_refused_with_what_it_lacks(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="no folder data/private"):
        Folder(str(tmp_path / "nowhere"))
    (folder / "data/public/evaluate.py").unlink()
    with pytest.raises(UsageError, match=r"no evaluate\.py"):
        Evaluate(str(folder))
    (folder / "reference/reference_target_agent.py").unlink()
    with pytest.raises(UsageError, match=r"say where the agent is with --set agent="):
        Folder(str(folder)).seed_harness()
    (folder / "data/public/questions.json").unlink()
    with pytest.raises(UsageError, match="has the same ids as one of data/private"):
        Folder(str(folder))


@pytest.mark.real
def test_the_script_may_lie_beside_the_data(folder: Path) -> None:
    (folder / "data/public/evaluate.py").unlink()
    (folder / "evaluate.py").write_text(EVALUATE.replace('parent.parent / "private"', 'parent / "data" / "private"'))
    assert scored(folder).reward == 1.0


@pytest.mark.thorough
def test_the_harness_is_the_reference_agent_and_requires_what_it_imports(folder: Path, tmp_path: Path) -> None:
    tree = Folder(str(folder)).seed_harness()
    assert tree.text("target_agent.py") == AGENT
    assert tree.manifest.requires == ()
    assert tree.manifest.fixed == ("harness.py",)
    other = tmp_path / "agent"
    other.mkdir()
    (other / "main.py").write_text("import pydantic, nothing_of_this_name\nimport parts\n")
    (other / "parts.py").write_text("")
    tree = Folder(str(folder), agent=f"{other}:main.py").seed_harness()
    assert tree.manifest.requires == ("pydantic",)
    assert {"target_agent.py", "parts.py"} <= tree.files.keys()
    (other / ".env").write_text("KEY=x")
    tree = Folder(str(folder), agent=f"{other}:main.py").seed_harness()
    assert (".env" in tree.files, tree.left_out) == (False, (".env",))


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("a.csv", "n,PassengerId\n1,x\n1,y\n", ("x", "y")),
        ("a.csv", "name,age\nx,1\ny,1\n", ("x", "y")),
        ("a.csv", "n\n1\n1\n", None),
        ("a.csv", "a,b\n1\n", None),
        ("a.json", '[{"id": 1, "q": "x"}, {"id": 2, "q": "x"}]', ("1", "2")),
        ("a.json", '{"a": 1, "b": 2}', ("a", "b")),
        ("a.json", '["a", "b"]', None),
        ("a.json", "{", None),
        ("a.jsonl", '{"id": "x"}\n{"id": "y"}\n', ("x", "y")),
        ("a.txt", "id\n1\n", None),
    ],
)
def test_rows_are_known_by_the_column_that_says_it_is_their_id(
    name: str, content: str, ids: tuple[str, ...] | None
) -> None:
    whole = table(name, content.encode())
    assert (whole.ids if whole else None) == ids
    if whole:
        part = table(name, whole.only({ids[0]} if ids else ()))
        assert part is not None
        assert part.ids == (ids or ())[:1]


@pytest.mark.real
def test_an_evaluate_py_that_takes_too_long_is_killed_and_half_a_result_of_it_does_not_count(folder: Path) -> None:
    script = """
import argparse, os, time
parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir")
with open(os.path.join(parser.parse_args().gen_dir, "results.json"), "w") as file:
    file.write('{"accuracy": 1.0}')
time.sleep(1000)
"""
    (folder / "data" / "public" / "evaluate.py").write_text(script)
    task = Folder(str(folder), evaluate_seconds="1")
    judge = Evaluate(**task.verifier.settings)
    instance = task.instances("search")[0]
    score = judge.score(instance, answers(instance), context())
    assert (score.reward, score.valid) == (0.0, False)
    assert score.feedback == "evaluate.py took more than 1 s; give it longer with --set evaluate_seconds=300"


@pytest.mark.parametrize("settings", [{"seconds": "inf"}, {"seconds": "9" * 20}, {"seconds": "0"}], ids=str)
def test_a_limit_of_an_agent_that_no_clock_can_count_is_refused(folder: Path, settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is no time limit; give seconds"):
        Folder(str(folder), **settings)


@pytest.mark.parametrize("scale", ["0", "nan", "inf", "-1", "x"])
def test_a_scale_that_is_none_is_refused_before_anything_is_scored(folder: Path, scale: str) -> None:
    with pytest.raises(UsageError, match=f"--set scale={scale}: not a number above 0"):
        Evaluate(**Folder(str(folder), scale=scale).verifier.settings)


@pytest.mark.parametrize("seconds", ["0", "x", "inf"])
def test_a_limit_of_evaluate_py_that_is_none_is_refused(folder: Path, seconds: str) -> None:
    with pytest.raises(UsageError, match=f"--set evaluate_seconds={seconds}: "):
        Evaluate(**Folder(str(folder), evaluate_seconds=seconds).verifier.settings)
