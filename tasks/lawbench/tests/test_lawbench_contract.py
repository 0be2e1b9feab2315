"""LawBench keeps the contracts of tasks and of verifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sia_lawbench.data import Data
from sia_lawbench.source import locate
from sia_lawbench.task import LawBench
from sia_lawbench.verifier import ChargeVerifier
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract


class TestLawBench(TaskContract):
    @pytest.fixture
    def make(self, folder: Path) -> Callable[[int], LawBench]:
        return lambda seed: LawBench(str(folder), seed=seed)


class TestChargeVerifier(VerifierContract):
    @pytest.fixture
    def make(self, folder: Path) -> Callable[[], ChargeVerifier]:
        return lambda: ChargeVerifier(str(folder))

    @pytest.fixture
    def judged(self, folder: Path, task: LawBench) -> list[Judged]:
        charges = {case.id: case.charge for case in Data(locate(str(folder)), 0).labelled["gate"]}
        names = sorted(set(charges.values()))
        other = dict(zip(names, [*names[1:], names[0]], strict=True))
        return [
            Judged(each, {"charge": charges[each.id]}, {"charge": other[charges[each.id]]})
            for each in task.instances("gate")
        ]
