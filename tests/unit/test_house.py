"""The architecture's numbers, such as how small the core is and what a run's driver loads; the words of docstrings."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import sia_core
from sia_cli.moved import MOVED
from sia_core.plugins import Plugins

CORE = Path(sia_core.__file__).parent
ROOT = CORE.parent
FOLDERS = ("sia_core", "plugins", "algorithms", "backends", "tasks", "tests", "bench", "docs", "tools", "examples")
# It matches texts that are no docstrings too, so a file with a match is parsed.
TRANSLATED = re.compile(r"\b(of its own|so many|gone on (with|from|without))\b", re.IGNORECASE)
"""Phrases that no page and no file of code has: readers stumble over them."""
QUESTION = re.compile(r'^\s*[rf]?"""\s*(What|Who)\b', re.MULTILINE)

PARTICIPLES = {"told", "said", "found", "taken"}
PUBLIC = {("sia_core/plugins.py", "found"), ("plugins/adapters/src/sia_adapters/episodes.py", "told")}
"""Parameters that docs/api.md lists."""
OF_HARNESSES = {
    "plugins/released/src/sia_released/wrapper.py",
    "tasks/bundled/src/sia_bundled/chess/harness.py",
}
"""Files of harnesses outside of seeds: runs name a harness by its content."""


def loaded_by(statement: str) -> set[str]:
    # What finds installed distributions imports `socket` by itself.
    first = "import sys, pydantic, pluggy, importlib.metadata; before = set(sys.modules)"
    code = f"{first}\n{statement}\nprint(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.real
def test_the_loop_loads_little_and_nothing_that_starts_or_connects() -> None:
    modules = loaded_by("import sia_core.run.loop")
    assert len([each for each in modules if each.startswith("sia_")]) <= 35
    assert not {each for each in modules if each.startswith("sia_") and not each.startswith("sia_core")}
    assert not modules & {"subprocess", "socket", "http", "asyncio", "numpy"}


@pytest.mark.real
def test_starting_a_run_loads_no_module_that_runs_code() -> None:
    modules = loaded_by("import sia_core.run.start")
    assert not modules & {"subprocess", "http", "asyncio", "numpy"}
    assert not {each for each in modules if each.startswith("sia_") and not each.startswith("sia_core")}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_plugin_that_imports_what_has_moved_is_told_where_it_is(old: str, tmp_path: Path) -> None:
    module, _, name = old.rpartition(".")
    new = importlib.import_module(MOVED[old])
    assert hasattr(new, name) or module in ("sia_core", "sia_core.run")
    plugin = "old_plugin_" + old.replace(".", "_")
    (tmp_path / f"{plugin}.py").write_text(f"from {module} import {name}\nsia_api = 1\n")
    assert re.search(rf"{re.escape(old)} is now (in )?{re.escape(MOVED[old])}", cause_of(plugin, tmp_path))


def test_a_plugin_that_imports_from_a_module_that_has_moved_is_told_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "old_plugin.py").write_text("from sia_core.testing.tasks import TaskContract\nsia_api = 1\n")
    assert "sia_core.testing is now sia_testing" in cause_of("old_plugin", tmp_path)


@pytest.mark.parametrize(
    ("old", "name"),
    [("discovering", "Discovers"), ("opening", "OpenInSandbox"), ("opening", "RunInSandbox"), ("views", "View")],
)
def test_what_the_pages_named_is_where_the_hint_says(old: str, name: str) -> None:
    assert hasattr(importlib.import_module(MOVED[f"sia_core.{old}"]), name)


def cause_of(plugin: str, folder: Path) -> str:
    """The reason for which a plugin in a folder is broken."""
    sys.path.insert(0, str(folder))
    try:
        ((_, cause),) = Plugins.discover([metadata.EntryPoint("old", plugin, "sia")]).broken
    finally:
        sys.path.remove(str(folder))
    return cause


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a file, constants' included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.strip()


def test_a_docstring_opens_with_no_question_word() -> None:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)
    names = {path.relative_to(ROOT).as_posix(): path for path in paths}
    questions = {
        name: [text for text in docstrings(path) if re.match(r"(What|Who)\b", text)]
        for name, path in names.items()
        if QUESTION.search(path.read_text(encoding="utf-8"))
    }
    assert not {name: texts for name, texts in questions.items() if texts}


def test_no_page_or_file_has_a_phrase_that_sounds_translated() -> None:
    paths = (path for folder in FOLDERS for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind))
    # The text of a seed is a harness's content, by which runs name it.
    sources = [path for path in paths if not {"build", "data", "seed", "seed_cuda"} & set(path.parts)]
    lines = {
        f"{path.relative_to(ROOT)}:{number}": line.strip()
        for path in sources
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if TRANSLATED.search(line)
    }
    assert len(sources) > 500
    assert not lines


def variables(path: Path) -> Iterator[str]:
    """The names of a file's variables and parameters."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.MatchAs(name=str(name)):
                yield name


def test_no_variable_or_parameter_is_a_participle_that_says_nothing_of_its_value() -> None:
    sources = [path for folder in ("plugins", "backends", "tasks") for path in (ROOT / folder).glob("*/src/**/*.py")]
    sources += [*CORE.rglob("*.py"), *(ROOT / "algorithms" / "src").rglob("*.py")]
    paths = {path.relative_to(ROOT).as_posix(): path for path in sources if not {"seed", "seed_cuda"} & {*path.parts}}
    assert len(paths) > 300
    names = {(place, name) for place in paths.keys() - OF_HARNESSES for name in variables(paths[place])}
    assert not {(place, name) for place, name in names - PUBLIC if name in PARTICIPLES}
