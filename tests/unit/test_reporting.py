"""Jobs of the local backend report how far they are to whoever submitted them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, cast

import numpy
import pytest

from sia_core.plugins import Plugins
from sia_core.types import Job, ReportsProgress
from sia_runtime.local import LocalBackend
from sia_runtime.reporting import LastReports, read_reports, report


def half_done(payload: Mapping[str, Any], host: object) -> str:
    report(solved=payload["solved"])
    return "done"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalBackend]:
    monkeypatch.setattr("sia_runtime.local.function_of", lambda name: half_done)
    with closing(LocalBackend(Plugins())) as backend:
        yield backend


def test_a_job_reports_to_whoever_submitted_it(backend: LocalBackend) -> None:
    heard: dict[int, list[Any]] = {1: [], 2: []}
    futures = [backend.submit_watched(Job("half", {"solved": n}), heard[n].append) for n in heard]
    assert [each.result() for each in futures] == ["done", "done"]
    assert heard == {1: [{"solved": 1}], 2: [{"solved": 2}]}
    assert isinstance(backend, ReportsProgress)


def test_a_job_that_nobody_watches_reports_to_nobody(backend: LocalBackend) -> None:
    heard: list[Any] = []
    backend.submit_watched(Job("half", {"solved": 1}), heard.append).result()
    assert backend.submit(Job("half", {"solved": 2})).result() == "done"
    assert heard == [{"solved": 1}]


def test_of_reports_that_are_asked_for_later_the_finite_numbers_are_kept() -> None:
    reports, figures = LastReports(), {"loss": math.nan, "step": 3, "note": "text", "reward": numpy.float32(0.5)}
    reports(cast("Mapping[str, float]", figures))
    reports({"step": 4})
    assert read_reports(reports.after(0)) == (2, [{"step": 3, "reward": 0.5}, {"step": 4}])
    assert read_reports(reports.after(1)) == (2, [{"step": 4}])
    assert read_reports(reports.after(2)) == (2, [])
