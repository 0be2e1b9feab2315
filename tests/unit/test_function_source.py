"""A function is carried as a module that stands on its own, or refused with what to do."""

from __future__ import annotations

import collections.abc
import functools
import importlib.util
import io
import json
import linecache
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest

from sia_adapters.function_source import FunctionSource
from sia_core.errors import UsageError

WORDS = {"one": 1, "two": 2}
SPACE = re.compile(r"\s+", re.ASCII)
HANDLE = io.StringIO()


@dataclass
class Counted:
    words: Counter[str]

    def most(self) -> str:
        return self.words.most_common(1)[0][0]


def split(text: str) -> list[str]:
    return SPACE.split(text)


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        return 2 * function(*arguments)

    return called


@twice
def total(text: str) -> int:
    return sum(WORDS.get(word, 0) for word in split(text))


def common(text: str) -> str:
    return Counted(Counter(split(text))).most()


def even(number: int) -> bool:
    return number == 0 or odd(number - 1)


def odd(number: int) -> bool:
    return number > 0 and even(number - 1)


def quoted(text: str) -> str:
    return urllib.request.quote(text) + json.dumps(text)


def rounded(value: float) -> float:
    import sklearn.utils  # noqa: F401 - a harness that imports inside

    return float(numpy.round(value))


def max(text: str) -> str:
    return text[-1]


def last(text: str) -> str:
    return max(text)


def logged(text: str) -> None:
    HANDLE.write(text)


def elsewhere(text: str) -> str:
    return str(planted.helper(text))  # noqa: F821 - set by a test


async def later(text: str) -> str:
    return text


def load(source: FunctionSource) -> Callable[..., Any]:
    """The function of the module that was written."""
    module: dict[str, Any] = {"__name__": "alone"}
    sys.modules["alone"] = type(sys)("alone")
    exec(compile(source.text, "alone.py", "exec", dont_inherit=True), module)
    function: Callable[..., Any] = module[source.name]
    return function


@pytest.mark.parametrize(
    ("function", "value", "gives"),
    [
        (split, "a  b", ["a", "b"]),
        (total, "one two", 6),
        (common, "b a b", "b"),
        (even, 4, True),
        (last, "abc", "c"),
        (quoted, "a b", 'a%20b"a b"'),
    ],
)
def test_a_function_does_the_same_where_it_is_carried(function: Callable[..., Any], value: Any, gives: Any) -> None:
    assert function(value) == gives
    assert load(FunctionSource(function))(value) == gives


def test_only_what_a_function_uses_goes_along() -> None:
    assert "Counted" not in FunctionSource(total).text


def test_a_function_takes_along_what_was_bound_where_it_was_defined() -> None:
    least = 3

    def enough(number: int) -> bool:
        return number >= least

    assert load(FunctionSource(enough))(3)


def test_what_is_imported_is_required_by_its_distribution() -> None:
    assert FunctionSource(rounded).requires == ("numpy", "scikit-learn")
    assert FunctionSource(quoted).requires == ()


def test_a_function_of_the_same_module_may_go_along() -> None:
    source = FunctionSource(split, also=("total", "nothing"))
    assert "def total" in source.text
    assert source.name == "split"


def test_a_cell_of_a_notebook_has_source_for_its_functions_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "class Box:\n    def __init__(self, n):\n        self.n = n\n\ndef boxed(n):\n    return Box(n).n + 1\n"
    main = type(sys)("notebook")
    monkeypatch.setitem(sys.modules, "notebook", main)
    monkeypatch.setitem(linecache.cache, "<cell 1>", (len(cell), None, cell.splitlines(keepends=True), "<cell 1>"))
    exec(compile(cell, "<cell 1>", "exec", dont_inherit=True), vars(main))
    assert load(FunctionSource(main.boxed))(1) == 2


def test_what_cannot_be_written_as_source_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"logged cannot be carried as source: it uses HANDLE, a StringIO, which"):
        FunctionSource(logged)


def test_a_module_of_the_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_helper.py").write_text("def helper(text):\n    return text\n")
    spec = importlib.util.spec_from_file_location("planted_helper", tmp_path / "planted_helper.py")
    assert spec
    monkeypatch.setitem(globals(), "planted", importlib.util.module_from_spec(spec))
    with pytest.raises(UsageError, match=r"planted_helper, that no installed distribution has.*may also be a folder"):
        FunctionSource(elsewhere)


@pytest.mark.parametrize("function", [lambda text: text, functools.partial(split, "a"), len, Counted])
def test_what_is_no_function_with_a_name_is_refused(function: collections.abc.Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"has no source that stands on its own; write the function with def"):
        FunctionSource(function)


def test_a_function_without_source_is_refused() -> None:
    module: dict[str, Any] = {"__name__": "typed"}
    exec("def solve(instance, ctx):\n    return 1\n", module)
    with pytest.raises(UsageError, match=r"solve has no source that can be read; write it in a file"):
        FunctionSource(module["solve"])
