"""Cheats of `sia audit`: answers made worse on purpose, and what it says where the reward pays for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from sia_audit.bench import Judged, Tried
from sia_audit.cheats import judge_cheats, try_cheats, worse_answers
from sia_core.types import Instance, Metric
from sia_testing.fakes import FakeTask

SHARES = [[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.2, 0.3], [0.4, 0.1, 0.2, 0.3]]


class Shares(FakeTask):
    """Its answers are shares; the reward is for the largest, what stands beside it is how far they are from even."""

    metric = Metric("peak", beside={"uneven": "minimize"})


class OfItsOwn(Shares):
    def cheats(self, answer: Any) -> dict[str, Any]:
        return {"all on one": [1.0, 0.0, 0.0, 0.0]}


@dataclass
class Bench:
    """Judges lists by their largest number, less what is given, and refuses all else."""

    task: FakeTask = field(default_factory=Shares)
    answers: list[Any] = field(default_factory=lambda: list(SHARES))
    pays: bool = True

    @property
    def tried(self) -> list[Tried]:
        instances = [Instance(str(n), "search", {}) for n in range(len(self.answers))]
        texts = map(json.dumps, self.answers)
        return [Tried(each, "ok", text, 0.0, "", "", 0) for each, text in zip(instances, texts, strict=True)]

    def size_of_samples(self, asks: int, seconds: float) -> int:
        return 64

    def judge(self, instance: Instance, answer: str) -> Judged:
        value = json.loads(answer)
        if not isinstance(value, list):
            return Judged(instance, answer, "invalid-answer", 0.0, 0.0)
        reward = max(value) if self.pays else -max(value)
        return Judged(instance, answer, "ok", reward, 0.0, metrics={"uneven": max(value) - min(value)})


def said(bench: Bench) -> dict[str, tuple[str, str]]:
    findings = judge_cheats(try_cheats(bench), bench.task.metric)  # type: ignore[arg-type]
    return {each.about: (each.verdict, each.says) for each in findings}


def test_a_reward_that_pays_for_moved_mass_is_bad_and_what_became_worse_is_named() -> None:
    verdict, says = said(Bench())["mass moved to the largest"]
    assert verdict == "bad"
    assert says.startswith("earns 0.612, the answers that it is made of 0.367")
    assert "uneven 0.233 -> 0.572" in says


def test_a_reward_that_does_not_pay_for_them_is_fine() -> None:
    assert {verdict for verdict, _ in said(Bench(pays=False)).values() if verdict == "bad"} == set()
    assert said(Bench(pays=False))["mass moved to the largest"][0] == "ok"


def test_a_task_adds_cheats_of_its_own() -> None:
    assert said(Bench(OfItsOwn()))["all on one"][0] == "bad"
    assert "all on one" not in said(Bench())


def test_cheats_that_are_refused_are_said_to_be() -> None:
    class Texts(Shares):
        def cheats(self, answer: Any) -> dict[str, Any]:
            return {"as a text": str(answer)}

    assert said(Bench(Texts()))["as a text"] == ("ok", "refused, all 3")


def test_without_a_second_metric_nothing_is_tried() -> None:
    ((about, (verdict, says)),) = said(Bench(FakeTask())).items()
    assert (about, verdict) == ("none tried", "ok")
    assert "Metric(beside=...)" in says


@pytest.mark.parametrize(
    ("values", "cheat", "worse"),
    [
        ([{"a": 1, "b": "x"}, {"a": 3, "b": "y"}], "constant", [{"a": 2, "b": "x"}, {"a": 2, "b": "y"}]),
        ([{"a": 1.0}, {"a": 3.0}], "halfway to the mean", [{"a": 1.5}, {"a": 2.5}]),
        (["yes", {"b": ["no", ""]}], "texts twice", ["yes yes", {"b": ["no no", ""]}]),
        ([[0, 10, 10, 10, 100]], "clipped", [[4, 10, 10, 10, 64]]),
        ([[2.0, 10.0, 10.0, 20.0]], "mass moved to the largest", [[0.6, 3.0, 10.0, 28.4]]),
    ],
)
def test_answers_of_every_shape_are_made_worse(values: list[Any], cheat: str, worse: list[Any]) -> None:
    assert worse_answers(values)[cheat] == [pytest.approx(each) if isinstance(each, list) else each for each in worse]


def test_answers_of_different_shapes_are_no_trouble() -> None:
    assert worse_answers([None, True, [], {}]) == {}
    assert worse_answers([[1.0], {"a": 2}, 3]) == {}
