"""The seed harness as a searcher, and the catalogue's edits of it."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sia_core.harness import HarnessTree, applies, apply_edits
from sia_core.types import Instance
from sia_denoising.task import HERE, DenoiserAnswer, Denoising

spec = importlib.util.spec_from_file_location("denoising_conftest", Path(__file__).with_name("conftest.py"))
assert spec is not None
assert spec.loader is not None
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
context = shared.context

INSTANCE = Instance("search-0", "search", {"data": "x", "cells": 100, "genes": 1000, "depth": 500, "draw": 0})


class Judged:
    """Evaluations that prefer many components."""

    def __init__(self, most: int, **attributes: Any) -> None:
        self.tried: list[dict[str, str]] = []
        self.ctx = context(evaluations=most, evaluate=self.evaluate, **attributes)

    def evaluate(self, answer: dict[str, Any]) -> SimpleNamespace:
        self.ctx.evaluations -= 1
        self.tried.append(answer["plan"])
        return SimpleNamespace(reward=-abs(int(answer["plan"]["components"]) - 30), valid=True, feedback="")


def test_without_evaluations_one_proposal_is_returned(seed: ModuleType) -> None:
    answer = seed.solve(INSTANCE, context())
    assert DenoiserAnswer.model_validate(answer).plan == seed.plans.MAGIC
    json.dumps(answer)


def test_it_returns_the_best_of_what_it_had_evaluated(seed: ModuleType) -> None:
    for number in range(8):
        judged = Judged(5, seed=number)
        answer = seed.solve(INSTANCE, judged.ctx)
        assert len(judged.tried) == 5
        assert judged.tried[0] == seed.plans.MAGIC
        assert answer["plan"] == min(judged.tried, key=lambda plan: abs(int(plan["components"]) - 30))
        changed = {name for plan in judged.tried for name in plan if plan[name] != seed.plans.MAGIC[name]}
        assert changed <= set(seed.plans.VARIED)


def test_the_same_seed_searches_the_same(seed: ModuleType) -> None:
    first, again, other = (Judged(4, seed=number) for number in (1, 1, 2))
    for judged in (first, again, other):
        seed.solve(INSTANCE, judged.ctx)
    assert first.tried == again.tried
    assert first.tried != other.tried


def test_a_policy_is_asked_for_a_plan_by_a_schema_that_allows_no_other(seed: ModuleType) -> None:
    plan = {name: values[-1] for name, values in seed.plans.FIELDS.items()}
    requests: list[dict[str, Any]] = []

    def model(messages: list[dict[str, Any]], **request: Any) -> dict[str, Any]:
        requests.append({"messages": messages, **request})
        return {"choices": [{"message": {"content": json.dumps(plan)}}]}

    answer = seed.solve(INSTANCE, context(model=model))
    assert answer["plan"] == plan
    assert "100 cells x 1000 genes" in requests[0]["messages"][0]["content"]
    schema = requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(seed.plans.FIELDS)
    assert schema["additionalProperties"] is False


def test_what_a_plan_lacks_or_misspells_is_as_in_magic(seed: ModuleType) -> None:
    assert seed.plans.settled({"output": "none of these", "t": "4", "new": "x"}) == {**seed.plans.MAGIC, "t": "4"}


def test_the_rendered_module_is_self_contained(seed: ModuleType) -> None:
    code = seed.render(seed.plans.MAGIC)["code"]
    tree = ast.parse(code)
    roots = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {root.partition(".")[0] for root in roots} <= {"numpy", "scipy", "sklearn"}
    assert len(code) < 64_000


@pytest.fixture
def task() -> Denoising:
    return Denoising.__new__(Denoising)  # its catalogue and seed need no data


def test_each_edit_applies_to_the_seed_and_keeps_the_schema_of_plans(
    task: Denoising, load: Callable[[HarnessTree], ModuleType]
) -> None:
    schema = load(task.seed_harness()).plans.SCHEMA
    for entry in task.playbook().edit:
        assert applies(task.seed_harness(), entry.change), entry.name
        edited = load(apply_edits(task.seed_harness(), entry.change))
        assert schema == edited.plans.SCHEMA
        answer = edited.solve(INSTANCE, context())
        assert answer != load(task.seed_harness()).solve(INSTANCE, context()) or entry.family == "search"
        DenoiserAnswer.model_validate(answer)


def test_edits_of_different_fields_go_together(task: Denoising, load: Callable[[HarnessTree], ModuleType]) -> None:
    edits = {entry.name: entry.change for entry in task.playbook().edit}
    tree = task.seed_harness()
    for name in ("expect-logarithms", "gamma-posterior", "fewer-components", "vary-everything", "three-graphs"):
        tree = apply_edits(tree, edits[name])
    assert not applies(tree, edits["plain-averages"])
    assert not applies(tree, edits["second-look"])
    harness = load(tree)
    judged = Judged(6)
    harness.solve(INSTANCE, judged.ctx)
    pinned = {"output": "1", "posterior": "nb", "components": "20"}
    assert all(plan.items() >= pinned.items() for plan in judged.tried)
    assert (HERE / "seed" / "stages.py").read_text() not in harness.render(harness.plans.MAGIC)["code"]


def test_the_archive_is_built_on_where_an_edit_says_so(
    task: Denoising, load: Callable[[HarnessTree], ModuleType]
) -> None:
    edits = {entry.name: entry.change for entry in task.playbook().edit}
    harness = load(apply_edits(task.seed_harness(), edits["from-the-archive"]))
    earlier = {**harness.plans.MAGIC, "output": "1"}
    start = {"answer": {"code": "...", "plan": earlier}, "reward": 0.4, "feedback": ""}
    instance = Instance("search-0", "search", INSTANCE.input, start)
    assert harness.solve(instance, context())["plan"] == earlier
    assert harness.solve(INSTANCE, context())["plan"] == harness.plans.MAGIC
    written = {"answer": {"code": "...", "plan": None}, "reward": 0.4, "feedback": ""}
    by_hand = Instance("search-0", "search", INSTANCE.input, written)
    assert harness.solve(by_hand, context())["plan"] == harness.plans.MAGIC
