"""A cache for each test, and harnesses that run in this process against a model that is a function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sia_core.harness import HarnessTree, apply_edits
from sia_reasoning.task import Reasoning

Model = Callable[[list[dict[str, str]]], str]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def words() -> Reasoning:
    return Reasoning()


@contextmanager
def imported(tree: HarnessTree, folder: Path) -> Iterator[ModuleType]:
    """The entry module of a harness, forgotten again afterwards with all that it brought along."""
    folder.mkdir()
    tree.write_to(folder)
    names = [path.removesuffix(".py") for path in tree.files]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("harness")
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)


class Tried:
    """Record of a harness: its answers, and the requests that the model got."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.requests: list[dict[str, Any]] = []


@pytest.fixture
def tried(tmp_path: Path) -> Callable[..., Tried]:
    """``tried(task, model, questions, *edits)``: the seed harness with these edits, asked these questions."""

    def solve(task: Reasoning, model: Model | None, questions: list[str], *edits: str) -> Tried:
        changes = {entry.name: entry.change for entry in task.playbook().edit}
        tree = task.seed_harness()
        for name in edits:
            tree = apply_edits(tree, changes[name])
        result = Tried()

        def ask(messages: list[dict[str, str]], **settings: Any) -> dict[str, Any]:
            assert model is not None
            result.requests.append({"messages": messages, **settings})
            return {"choices": [{"message": {"content": model(messages)}}]}

        with imported(tree, tmp_path / f"harness-{len(list(tmp_path.iterdir()))}") as harness:
            ctx = SimpleNamespace(public=task.public_dir(("public",)), has_model=model is not None, model=ask)
            ctx.state = harness.setup(ctx)
            for question in questions:
                answer = harness.solve(SimpleNamespace(input={"question": question}), ctx)
                result.answers.append(task.answer.model_validate(answer, strict=True).answer)
        return result

    return solve
