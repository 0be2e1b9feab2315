"""A job crosses to a worker as ``"module:function"``: such a name must find its function, wherever it stands.

The names are read out of the source, so that one that is new, or whose function was moved, is looked at too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sia_runtime.jobs import function_of

ROOT = Path(__file__).parents[2]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]


def names() -> Iterator[tuple[str, str]]:
    """Each name of a job in the source, and where it stands."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "Job(" not in text and ".job" not in text:
                continue
            tree = ast.parse(text)
            parameters = {each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)}
            for call in ast.walk(tree):
                argument = handed(call) if isinstance(call, ast.Call) else None
                if argument is None or (isinstance(argument, ast.Name) and argument.id in parameters):
                    continue
                place = f"{path.relative_to(ROOT)}:{argument.lineno}"
                if isinstance(argument, ast.Constant):
                    yield str(argument.value), place
                elif isinstance(argument, ast.Name):
                    module = ".".join(path.relative_to(ROOT / package).with_suffix("").parts)
                    prefix = f"{package}." if package == "sia_core" else ""
                    yield getattr(importlib.import_module(prefix + module), argument.id), place
                else:  # made from the function itself, which an import checker sees
                    assert ".__name__" in ast.unparse(argument), f"{place}: write the name of the job as a string"


def handed(call: ast.Call) -> ast.expr | None:
    """The name of a job in ``Job(name, ...)``, ``rollouts.job(name, ...)`` or ``partial(rollouts.job, name, ...)``."""
    callee, arguments = call.func, call.args
    if ast.unparse(callee).endswith("partial") and arguments:
        callee, arguments = arguments[0], arguments[1:]
    is_job = isinstance(callee, ast.Name) and callee.id == "Job"
    run = isinstance(callee, ast.Attribute) and callee.attr in ("Job", "job")
    named = [each.value for each in call.keywords if each.arg == "function"]
    return (*named, *arguments)[0] if (is_job or run) and (named or arguments) else None


JOBS = sorted(set(names()))


def test_the_jobs_of_a_run_are_among_those_that_are_read_out_of_the_source() -> None:
    functions = {name.partition(":")[2] for name, _ in JOBS}
    assert functions >= {"run_batch", "explore", "train", "verify", "abilities", "prepare"}


@pytest.mark.parametrize(("name", "place"), JOBS, ids=[f"{name} in {place}" for name, place in JOBS])
def test_a_job_finds_its_function(name: str, place: str) -> None:
    assert list(inspect.signature(function_of(name)).parameters) == ["payload", "host"], place
