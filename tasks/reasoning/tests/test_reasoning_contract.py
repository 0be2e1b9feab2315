"""The task and its verifier keep the contracts, with sums in words and with a data set of the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sia_reasoning.task import Reasoning
from sia_reasoning.verifier import ReasoningVerifier
from sia_reasoning.words import value_of
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract

SMALL: Mapping[str, Any] = {"dataset": "chain_sum", "search": 6, "gate": 6, "sealed": 6}


class TestWords(TaskContract):
    @pytest.fixture
    def make(self) -> Callable[[int], Reasoning]:
        return lambda seed: Reasoning(seed=seed)


class TestWordsVerifier(VerifierContract):
    @pytest.fixture
    def make(self) -> Callable[[], ReasoningVerifier]:
        return ReasoningVerifier

    @pytest.fixture
    def judged(self) -> list[Judged]:
        every = [each for split in ("search", "gate") for each in Reasoning().instances(split)[:9]]
        truth = [value_of(each.input["question"]) for each in every]
        return [
            Judged(each, {"answer": str(value)}, {"answer": str(value + 1)})
            for each, value in zip(every, truth, strict=True)
        ]


@pytest.mark.slow
class TestLibrary(TaskContract):
    @pytest.fixture
    def make(self) -> Callable[[int], Reasoning]:
        return lambda seed: Reasoning(**SMALL, seed=seed)


@pytest.mark.slow
class TestLibraryVerifier(VerifierContract):
    @pytest.fixture
    def make(self) -> Callable[[], ReasoningVerifier]:
        return lambda: ReasoningVerifier(**SMALL)

    @pytest.fixture
    def judged(self) -> list[Judged]:
        task = Reasoning(**SMALL)
        rows = {row["id"]: row["answer"] for row in task._labelled(("gate",))}
        return [Judged(each, {"answer": rows[each.id]}, {"answer": "none"}) for each in task.instances("gate")]
