"""The seed harness: every plan is a right kernel, and every edit of the playbook leaves a harness that works."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sia_trimul
from sia_core.harness import apply_edits
from sia_trimul import toolchain
from sia_trimul.judging import check
from sia_trimul.shapes import Shape, draw
from sia_trimul.task import KernelAnswer, TriMul

SOURCE = Path(sia_trimul.__file__).parent
MODULES = ("harness", "plans", "fields", "renderer")
EXACT = ("first", "second", "gate", "output")
"""Stages that take other precisions too, in which few kernels are right."""


class Ctx:
    """A harness's context: a few evaluations, each a little better than the one before, and perhaps a policy."""

    def __init__(self, evaluations: int, seed: int = 0, plan: str | None = None) -> None:
        self.evaluations, self.seed, self.has_model = evaluations, seed, plan is not None
        self.seen: list[Any] = []
        self.asked: list[Any] = []
        self._plan = plan

    def evaluate(self, answer: Any) -> Any:
        self.evaluations -= 1
        self.seen.append(answer)
        return SimpleNamespace(reward=float(len(self.seen) % 3), valid=len(self.seen) != 1, feedback="", metrics={})

    def model(self, messages: Any, **settings: Any) -> Any:
        self.asked.append(settings)
        return {"choices": [{"message": {"content": self._plan}}]}


def load(folder: Path) -> Any:
    """The harness of a folder, and its modules, as a sandbox would import them."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        return __import__("harness")
    finally:
        sys.path.remove(str(folder))


def edited(task: TriMul, edit: Any, folder: Path) -> Iterator[Any]:
    tree = task.seed_harness()
    if edit is not None:
        tree = apply_edits(tree, edit.change)
    tree.write_to(folder)
    yield load(folder)
    for name in MODULES:
        sys.modules.pop(name, None)


def cuda() -> TriMul:
    """The CUDA edition, whether or not there is a device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "check_device", lambda: "a device")
        return TriMul(device="cuda")


def of_each(*tasks: TriMul) -> Any:
    """The seed of each edition, and what each edit makes of it."""
    cases = [(task, edit) for task in tasks for edit in (None, *task.playbook().edit)]
    return pytest.fixture(
        params=cases, ids=lambda case: f"{case[0].verifier.name}: {'seed' if case[1] is None else case[1].name}"
    )


@of_each(TriMul(), cuda())
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield from edited(*request.param, tmp_path / "harness")


@of_each(TriMul())
def cpu_harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield from edited(*request.param, tmp_path / "harness")


def instance(start: Any = None) -> Any:
    return SimpleNamespace(id="search-0", input={"device": "cpu"}, start=start)


@pytest.mark.parametrize("evaluations", [0, 1, 6])
def test_it_returns_an_answer_and_uses_every_evaluation(harness: Any, evaluations: int) -> None:
    ctx = Ctx(evaluations)
    answer = KernelAnswer.model_validate(harness.solve(instance(), ctx)).model_dump()
    assert len(ctx.seen) == evaluations
    if evaluations == 6:
        assert answer == ctx.seen[1]  # the first that is valid and earns 2


def test_it_goes_on_from_an_earlier_answer(harness: Any) -> None:
    first = harness.solve(instance(), Ctx(0))
    start = {"id": "x", "answer": first, "reward": 2.0, "feedback": ""}
    assert KernelAnswer.model_validate(harness.solve(instance(start), Ctx(2)))


def test_it_asks_the_policy_for_what_the_schema_says(harness: Any) -> None:
    import json

    plan = json.dumps({name: values[0] for name, values in harness.plans.FIELDS.items()})
    ctx = Ctx(0, plan=plan)
    answer = harness.solve(instance(), ctx)
    (request,) = ctx.asked
    schema = request["response_format"]["json_schema"]["schema"]
    assert set(schema["required"]) == set(harness.plans.FIELDS) - set(harness.plans.PINNED)
    assert answer["plan"] == {**json.loads(plan), **harness.plans.PINNED}


def test_plans_make_right_kernels(cpu_harness: Any) -> None:
    sys.path.insert(0, str(SOURCE / "programs"))
    import reference

    sys.path.remove(str(SOURCE / "programs"))
    rng = random.Random(0)
    for shape in (Shape(9, 2, 24, "normal", True), Shape(17, 1, 32, "cauchy")):
        x, mask, weights, config = draw(shape, 1)
        inputs = (torch.from_numpy(x), torch.from_numpy(mask), {k: torch.from_numpy(v) for k, v in weights.items()})
        expected = reference.kernel(*inputs, config).numpy()
        for _ in range(12):
            plan = cpu_harness.plans.random_plan(rng) | dict.fromkeys(EXACT, "float32")
            scope: dict[str, Any] = {}
            exec(cpu_harness.answer(plan)["code"], scope)
            for _ in range(2):
                check(scope["kernel"](*inputs, config).numpy(), expected, shape)


def test_a_variation_changes_as_many_fields_as_it_says(harness: Any) -> None:
    rng = random.Random(0)
    plan = harness.plans.random_plan(rng)
    changed = harness.plans.mutated(plan, rng, 1)
    assert sum(plan[name] != changed[name] for name in plan) == 1
