"""The harness's requests to the run's model, and its use of the replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sia_core.harness import HarnessTree, apply_edits
from sia_core.playbook import Playbook
from sia_lawbench.data import Data
from sia_lawbench.source import locate
from sia_lawbench.task import HERE, LawBench

EDITS = {entry.name: entry.change for entry in Playbook.from_toml(HERE / "playbook.toml").edit}
CLASSIFIERS = ["nearest-neighbours", "naive-bayes", "linear-svc"]

Asked = list[dict[str, Any]]


class Model:
    """Keeps what it was asked, and answers with the choice at ``place``."""

    def __init__(self, place: int) -> None:
        self.place, self.asked = place, Asked()

    def __call__(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        return {"choices": [{"message": {"role": "assistant", "content": request["choices"][self.place]}}]}


@pytest.fixture
def solved(task: LawBench, folder: Path, measure: ModuleType) -> Callable[..., tuple[list[str], Asked]]:
    """Solves the made-up gate cases with the seed harness after some edits: the answers, and what a model was asked."""
    data = Data(locate(str(folder)), seed=0)

    @contextmanager
    def set_up(tree: HarnessTree, **about: Any) -> Iterator[tuple[Any, SimpleNamespace]]:
        with measure.imported(tree) as harness:
            ctx = SimpleNamespace(public=task.public_dir(["public"]), **about)
            ctx.state = harness.setup(ctx)
            yield harness, ctx

    def solve(*edits: str, place: int | None = -1) -> tuple[list[str], Asked]:
        tree = task.seed_harness()
        for name in edits:
            tree = apply_edits(tree, EDITS[name])
        model = Model(place or 0)
        about = {"has_model": False} if place is None else {"has_model": True, "model": model}
        with set_up(tree, **about) as (harness, ctx):
            instances = [SimpleNamespace(input={"text": case.text}) for case in data.labelled["gate"]]
            answers = [harness.solve(instance, ctx) for instance in instances]
        for answer in answers:
            assert task.answer.model_validate_json(json.dumps(answer), strict=True)
        return [answer["charge"] for answer in answers], model.asked

    return solve


def texts(requests: Asked) -> list[str]:
    return [message["content"] for request in requests for message in request["messages"]]


def test_the_seed_lets_the_model_choose_among_all_charges(solved: Any, task: LawBench, folder: Path) -> None:
    answers, requests = solved()
    cases = Data(locate(str(folder)), seed=0).labelled["gate"]
    assert texts(requests) == [case.text for case in cases]
    charges = json.loads((task.public_dir(["public"]) / "charges.json").read_text(encoding="utf-8"))
    assert all(request["choices"] == charges and "prior" not in request for request in requests)
    assert all(request["temperature"] == 0 for request in requests)
    assert set(answers) == {charges[-1]}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_the_model_its_best_charges_with_their_weights(solved: Any, name: str) -> None:
    answers, requests = solved(name, place=0)
    assert answers == solved(name, place=None)[0]
    for request in requests:
        assert len(request["choices"]) == len(request["prior"]) == 6  # of the made-up charges, all
        assert request["prior"] == sorted(request["prior"], reverse=True)
    last, _ = solved(name, place=-1)
    assert last == [request["choices"][-1] for request in requests]


def test_the_shortlist_may_be_shorter(solved: Any) -> None:
    _, requests = solved("linear-svc", "shortlist-of-three")
    assert {len(request["choices"]) for request in requests} == {3}


def test_the_scores_may_weigh_more_or_less(solved: Any) -> None:
    prior = {name: solved("linear-svc", *name)[1][0]["prior"] for name in [(), ("weaker-prior",), ("stronger-prior",)]}
    assert prior["weaker-prior",] == pytest.approx([each / 2 for each in prior[()]])
    assert prior["stronger-prior",] == pytest.approx([each * 2 for each in prior[()]])


def test_the_model_may_be_left_unasked(solved: Any) -> None:
    answers, requests = solved("linear-svc", "model-unasked")
    assert not requests
    assert answers == solved("linear-svc", place=None)[0]


def test_the_model_may_be_asked_only_where_the_classifier_is_unsure(solved: Any) -> None:
    _, everywhere = solved("linear-svc")
    _, close = solved("linear-svc", "model-asked-when-close")
    assert len(close) < len(everywhere)


def test_what_the_model_reads_and_what_is_scored_are_two_choices(solved: Any, folder: Path) -> None:
    cases = Data(locate(str(folder)), seed=0).labelled["gate"]
    _, requests = solved("linear-svc", "first-200-characters", "model-reads-400")
    assert texts(requests) == [case.text[:400] for case in cases]
