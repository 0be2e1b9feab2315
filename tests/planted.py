"""Runs a contract suite over one thing in this process, to see which of its tests a planted fault fails."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest


def failing(contract: type, **fixtures: Any) -> set[str]:
    """The tests of a contract that fail, or do not get through, with these fixtures."""
    failed = set()
    for name, test in inspect.getmembers(contract, inspect.isfunction):
        if name.startswith("test_"):
            names = [each for each in inspect.signature(test).parameters if each != "self"]
            try:
                test(contract(), **{each: copy.deepcopy(fixtures[each]) for each in names})
            except pytest.skip.Exception:
                continue
            except (Exception, pytest.fail.Exception):
                failed.add(name)
    return failed
