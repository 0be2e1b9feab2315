"""The task as the core sees it, and what it keeps to itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
from pydantic import ValidationError

from sia_core.errors import UsageError
from sia_core.types import Instance, Perturbs, Split, Task
from sia_lawbench import plugin, source
from sia_lawbench.source import SEALED_LABELS, TEST, TRAIN, Source
from sia_lawbench.task import LawBench

LABELLED: tuple[Split, ...] = ("public", "search", "gate")


def test_it_is_a_task(task: LawBench) -> None:
    checked: Task = task
    assert isinstance(checked, Task)
    assert task.kind == "solve"
    assert task.metric.direction == "maximize"
    assert json.loads(json.dumps(task.verifier.settings)) == task.verifier.settings


def test_instances_carry_the_text_and_nothing_else(task: LawBench) -> None:
    for split in (*LABELLED, "sealed"):
        instances = task.instances(split)
        assert instances == task.instances(split)
        assert all(instance.split == split and instance.input.keys() == {"text"} for instance in instances)


def test_an_answer_is_one_of_the_charges(task: LawBench) -> None:
    assert task.answer.model_validate({"charge": "[生产、销售]假药"}).model_dump() == {"charge": "[生产、销售]假药"}
    for wrong in ({"charge": "海盗"}, {"charge": None}, {}, {"charge": "盗窃", "why": "x"}):
        with pytest.raises(ValidationError):
            task.answer.model_validate(wrong)


def test_the_public_folder_holds_the_cases_of_its_splits_alone(task: LawBench) -> None:
    for splits in (LABELLED[:1], LABELLED[:2], LABELLED):
        folder = task.public_dir(splits)
        assert sorted(path.name for path in folder.iterdir()) == ["cases.jsonl", "charges.json"]
        cases = [json.loads(line) for line in (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
        assert all(case.keys() == {"id", "text", "charge"} for case in cases)
        assert {case["id"] for case in cases} == {each.id for split in splits for each in task.instances(split)}
        assert not {case["text"] for case in cases} & {each.input["text"] for each in task.instances("sealed")}
        assert json.loads((folder / "charges.json").read_text(encoding="utf-8"))[0] == "盗窃"


def test_the_public_folder_is_made_once(task: LawBench, folder: Path) -> None:
    public = task.public_dir(["gate", "public"])
    before = (public / "cases.jsonl").stat().st_mtime_ns
    assert LawBench(str(folder)).public_dir(["public", "gate", "public"]) == public
    assert (public / "cases.jsonl").stat().st_mtime_ns == before


def test_sealed_cases_are_never_public(task: LawBench) -> None:
    with pytest.raises(UsageError, match="sealed cases are for the report alone"):
        task.public_dir(["public", "sealed"])


def use_all_of(task: LawBench) -> None:
    for split in (*LABELLED, "sealed"):
        task.instances(split)
    task.public_dir(LABELLED)
    task.seed_harness()
    task.playbook()


def test_the_task_does_not_open_the_sealed_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = Source.read

    def spy(self: Source, name: str) -> bytes:
        opened.append(name)
        return original(self, name)

    monkeypatch.setattr(Source, "read", spy)
    use_all_of(LawBench(str(folder)))
    assert {TRAIN, TEST} <= set(opened)
    assert SEALED_LABELS not in opened


def test_the_task_does_without_the_sealed_labels(folder: Path) -> None:
    (folder / SEALED_LABELS).unlink()
    use_all_of(LawBench(str(folder)))


def test_the_fingerprint_names_data_and_seed(folder: Path) -> None:
    first = LawBench(str(folder)).fingerprint
    assert LawBench(str(folder)).fingerprint == first
    assert LawBench(str(folder), seed=1).fingerprint != first
    (folder / TEST).write_bytes((folder / TEST).read_bytes() + "77,又一案。\r\n".encode())
    assert LawBench(str(folder)).fingerprint != first


def test_the_verifier_is_told_of_the_same_copy_wherever_it_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert LawBench("data", seed=2).verifier.settings == {"data": str(folder), "seed": 2}


def test_the_brief_names_no_case(task: LawBench) -> None:
    assert "out of 6 charges" in task.brief
    assert not any(each.input["text"] in task.brief for split in LABELLED for each in task.instances(split))


def test_the_entry_module_is_light_and_names_what_exists() -> None:
    heavy = ["sklearn", "numpy", "pydantic", "sia_lawbench.task", "sia_lawbench.data"]
    code = f"import sys, sia_lawbench.plugin; print([m for m in {heavy} if m in sys.modules])"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert plugin.sia_api == 1
    for offer in [*plugin.sia_tasks(), *plugin.sia_verifiers()]:
        assert offer.name == "lawbench"
        module, _, attribute = offer.factory.partition(":")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute)


@pytest.mark.real
def test_the_real_public_folder_holds_no_sealed_text(real_task: LawBench) -> None:
    folder = real_task.public_dir(LABELLED)
    texts = {json.loads(line)["text"] for line in (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()}
    assert len(texts) == 5283
    assert not texts & {each.input["text"] for each in real_task.instances("sealed")}


@pytest.mark.real
def test_the_wheel_and_its_extracted_files_are_the_same_task(real_task: LawBench, tmp_path: Path) -> None:
    whole = source.locate(None)
    for name in (TRAIN, TEST, source.CHARGES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(whole.read(name))
    assert LawBench(str(tmp_path)).fingerprint == real_task.fingerprint


def test_another_guise_of_a_case_leaves_out_a_twentieth_of_its_characters_always_the_same(task: LawBench) -> None:
    assert isinstance(task, Perturbs)
    instance = Instance("some-case", "sealed", {"text": "".join(map(chr, range(0x4E00, 0x4E00 + 200)))})
    text = task.perturbed(instance)["text"]
    assert len(text) == 190
    assert list(text) == sorted(text)  # the rest stays in its order
    assert task.perturbed(instance) == {"text": text}
    assert task.perturbed(Instance("another", "sealed", instance.input))["text"] != text
