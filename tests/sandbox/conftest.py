"""Harnesses to solve with, under every sandbox of the core."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sia_core.harness import Manifest
from sia_core.types import Limits
from sia_runtime.sandbox.bwrap import Bubblewrap
from sia_runtime.sandbox.contract import GUARANTEES, ModelAccess, Sandbox
from sia_runtime.sandbox.namespaces import Namespaces
from sia_runtime.sandbox.process import Process
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest, SolveResult

LIMITS = Limits(setup_seconds=20.0, solve_seconds=20.0, processes=16)
SANDBOXES: dict[str, Callable[[], Sandbox]] = {
    "namespaces": Namespaces,
    "bwrap": Bubblewrap,
    "process": Process,
}


@cache
def probed(name: str) -> tuple[Sandbox, Mapping[str, str]]:
    instance = SANDBOXES[name]()
    return instance, instance.probe()


@pytest.fixture(params=["namespaces", pytest.param("bwrap", marks=pytest.mark.slow), "process"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    instance, lacks = probed(request.param)
    if set(GUARANTEES) <= lacks.keys():
        pytest.skip(f"{instance.name} does not start here: {lacks['files']}")
    return instance


@dataclass
class Bench:
    """Makes workers for harnesses given as source text."""

    sandbox: Sandbox
    folder: Path
    workers: list[HarnessWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.public = self.folder / "public"
        self.public.mkdir()
        (self.public / "cases.txt").write_text("public")

    def worker(
        self,
        code: str,
        *,
        limits: Limits = LIMITS,
        model: ModelAccess | None = None,
        slots: int = 2,
        requires: tuple[str, ...] = (),
        stateless: bool = False,
        files: dict[str, str] | None = None,
    ) -> HarnessWorker:
        tree = self.folder / f"tree-{len(self.workers)}"
        for name, text in {"harness.py": textwrap.dedent(code), **(files or {})}.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        manifest = Manifest(requires=requires, stateless=stateless)
        self.workers.append(HarnessWorker(self.sandbox, tree, manifest, self.public, limits, model, slots))
        return self.workers[-1]

    def solve(self, code: str, inputs: list[Any], **options: Any) -> list[SolveResult]:
        """Results in the order of the inputs; each came once."""
        return self.run(self.worker(code, **options), inputs)

    def run(self, worker: HarnessWorker, inputs: list[Any]) -> list[SolveResult]:
        """The same with a worker that may have solved before."""
        results = list(worker.solve(requests(inputs)))
        by_key = {result.key: result for result in results}
        assert len(by_key) == len(results) == len(inputs)
        return [by_key[str(index)] for index in range(len(inputs))]


def requests(inputs: list[Any]) -> list[SolveRequest]:
    return [
        SolveRequest(str(index), {"id": f"i{index}", "input": {"do": each}, "start": None}, index)
        for index, each in enumerate(inputs)
    ]


@pytest.fixture
def bench(sandbox: Sandbox, tmp_path: Path) -> Iterator[Bench]:
    result = Bench(sandbox, tmp_path)
    yield result
    for worker in result.workers:
        worker.close()
