"""Scores, and what feedback may say of which split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.types import Instance, Limits, Ran, Score, Split, Verifier, VerifierContext
from sia_lawbench.data import Data
from sia_lawbench.source import SEALED_LABELS, Source, locate
from sia_lawbench.task import LawBench
from sia_lawbench.verifier import ChargeVerifier


def refuse(
    files: Mapping[str, bytes], command: Sequence[str], stdin: bytes = b"", *, limits: Limits | None = None
) -> Ran:
    raise AssertionError("this verifier runs nothing")


CONTEXT = VerifierContext(run=refuse, seed=0, open=refuse)


@pytest.fixture
def verifier(task: LawBench) -> ChargeVerifier:
    return ChargeVerifier(**task.verifier.settings)


def scores(verifier: Verifier, instance: Instance) -> dict[str, Score]:
    """The score of every charge for an instance."""
    charges = ("盗窃", "放火", "诈骗", "[生产、销售]假药", "交通肇事", "故意伤害")
    return {charge: verifier.score(instance, {"charge": charge}, CONTEXT) for charge in charges}


@pytest.mark.parametrize("split", ["public", "search", "gate", "sealed"])
def test_the_true_charge_alone_is_right(split: Split, task: LawBench, verifier: ChargeVerifier) -> None:
    assert isinstance(verifier, Verifier)
    keywords = {
        "窃取": "盗窃",
        "点燃": "放火",
        "虚构": "诈骗",
        "药品": "[生产、销售]假药",
        "驾驶": "交通肇事",
        "持刀": "故意伤害",
    }
    for instance in task.instances(split):
        right = [charge for charge, score in scores(verifier, instance).items() if score.reward == 1.0]
        assert right == [charge for keyword, charge in keywords.items() if keyword in instance.input["text"]]
        assert all(score.reward in (0.0, 1.0) and score.valid for score in scores(verifier, instance).values())


@pytest.mark.parametrize("split", ["gate", "sealed"])
def test_feedback_on_hidden_splits_says_nothing(split: Split, task: LawBench, verifier: ChargeVerifier) -> None:
    for instance in task.instances(split):
        assert {score.feedback for score in scores(verifier, instance).values()} == {""}


def test_feedback_on_search_names_the_true_charge(folder: Path, task: LawBench, verifier: ChargeVerifier) -> None:
    truth = {case.id: case.charge for case in Data(locate(str(folder)), 0).labelled["search"]}
    for instance in task.instances("search"):
        for charge, score in scores(verifier, instance).items():
            assert score.feedback == ("right" if charge == truth[instance.id] else _wrong(truth[instance.id], charge))


def _wrong(truth: str, named: str) -> str:
    return f"wrong: the court's charge is {truth}, not {named}"


@pytest.mark.parametrize("answer", [None, "盗窃", {}, {"charge": "海盗"}, {"charge": ["盗窃"]}, 1])
def test_what_names_no_charge_is_invalid(answer: Any, task: LawBench, verifier: ChargeVerifier) -> None:
    score = verifier.score(task.instances("gate")[0], answer, CONTEXT)
    assert (score.reward, score.valid) == (0.0, False)


def test_sealed_labels_are_opened_for_a_sealed_instance_alone(
    task: LawBench, verifier: ChargeVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = Source.read

    def spy(self: Source, name: str) -> bytes:
        opened.append(name)
        return original(self, name)

    monkeypatch.setattr(Source, "read", spy)
    for split in ("public", "search", "gate"):
        verifier.score(task.instances(split)[0], {"charge": "盗窃"}, CONTEXT)
    assert SEALED_LABELS not in opened
    for instance in task.instances("sealed"):
        verifier.score(instance, {"charge": "盗窃"}, CONTEXT)
    assert opened.count(SEALED_LABELS) == 1


def test_an_instance_of_other_splits_is_an_error(task: LawBench, folder: Path) -> None:
    instance = task.instances("gate")[0]
    with pytest.raises(UsageError, match=r"no search case .*give the verifier the data and seed that the task has"):
        ChargeVerifier(str(folder)).score(Instance(instance.id, "search", instance.input), {"charge": "盗窃"}, CONTEXT)


@pytest.mark.parametrize("content", [b"id,label\r\n0,x\r\n", "id,label\r\n0,盗窃\r\n".encode()])
def test_sealed_labels_that_do_not_fit_are_an_error(content: bytes, task: LawBench, folder: Path) -> None:
    (folder / SEALED_LABELS).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{SEALED_LABELS} in .* has no known charge for row"):
        ChargeVerifier(str(folder)).score(task.instances("sealed")[0], {"charge": "盗窃"}, CONTEXT)
