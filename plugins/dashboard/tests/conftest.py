"""Fixtures of the dashboard's tests, which are left out where it is not installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # told_runs is imported by name

if importlib.util.find_spec("sia_dashboard") is None:
    collect_ignore_glob = ["test_*.py"]

if TYPE_CHECKING:
    from starlette.testclient import TestClient
    from told_runs import Story, Tell

    from sia_dashboard.library import Library
    from sia_dashboard.records import Record


@pytest.fixture
def tell(tmp_path: Path) -> Iterator[Tell]:
    """Starts a story in the folder of runs."""
    from told_runs import Story

    stories: list[Story] = []

    def begin(name: str = "fake-1", say: str = "words") -> Story:
        stories.append(Story(tmp_path / "runs" / name, say))
        return stories[-1]

    yield begin
    for story in stories:
        story.ledger.close()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    from sia_dashboard.library import Library

    with closing(Library(tmp_path / "runs")) as runs:
        yield runs


@pytest.fixture
def client(library: Library) -> Iterator[TestClient]:
    from starlette.testclient import TestClient

    from sia_dashboard import server

    with TestClient(server.application(library), base_url="http://127.0.0.1:8642") as browser:
        yield browser


@pytest.fixture
def record(tell: Tell, tmp_path: Path) -> Iterator[Record]:
    """A finished run, read."""
    from sia_dashboard.records import Record

    tell().whole()
    with closing(Record(tmp_path / "runs" / "fake-1")) as run:
        yield run
