"""The design's "Numbers to hold" and its rules on imports, read from the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import sia_core
from sia_cli.commands import OWN

CORE = Path(sia_core.__file__).parent
ROOT = CORE.parent
HEAVY = {
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "numpy",
    "modal",
    "ray",
    "peft",
    "trl",
    "cupy",
    "anthropic",
    "litellm",
    "tinker",
    "openai_harmony",
}
HEART = ("run/loop", "run/gate", "decision", "evidence", "types", "hookspecs")
OURS = [
    "adapters",
    "attacks",
    "audit",
    "cli",
    "compare",
    "deploy",
    "llm",
    "reading",
    "released",
    "runtime",
    "testing",
    "weights",
]

# The attacks are harnesses, no modules: nothing can import one.
MODULES = sorted(
    path
    for folder in (CORE, *(ROOT / "plugins" / name / "src" for name in OURS))
    for path in folder.rglob("*.py")
    if path.parent.name != "hostile"
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tracked() -> set[str] | None:
    """The project files that git knows; None where this is no checkout, or there is no git."""
    try:
        listing = ["git", "ls-files", "-z", "pyproject.toml", "*/pyproject.toml"]
        result = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return set(result.stdout.split("\0"))


def _installed(path: Path) -> bool:
    try:
        distribution(tomllib.loads(path.read_text())["project"]["name"])
    except PackageNotFoundError:
        return False
    return True


def _projects() -> list[Path]:
    """The distributions of the repository; what somebody is still working on, untracked or not installed, is none."""
    tracked = _tracked()
    paths = (
        path for path in ROOT.rglob("pyproject.toml") if not {".venv", "build"} & set(path.relative_to(ROOT).parts)
    )
    return sorted(path for path in paths if (tracked is None or name_of(path) in tracked) and _installed(path))


PROJECTS = _projects()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, also inside of functions, by its full name."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield node.module or ""


def top(modules: Iterator[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def loaded(program: str) -> set[str]:
    """The modules that a program leaves in sys.modules."""
    code = f"import sys; before = set(sys.modules)\n{program}\nprint('|', *(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("|")[2].split())


# Numbers


@pytest.mark.real
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["plugins", "--help"], ["audit", "--help"]]
)
def test_help_scans_no_entry_points_and_imports_nothing_heavy(arguments: list[str]) -> None:
    main = f"from sia_cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    modules = loaded(main)
    assert "sia_cli" in modules
    assert arguments[0] not in ("--help", "--version") or "tomllib" not in modules, "no file of options is read"
    assert not modules & {"importlib.metadata", "sia_core.plugins", "asyncio", "multiprocessing", "sqlite3"}
    assert not {each.partition(".")[0] for each in modules} & {"click", "pydantic", "rich", "pluggy", *HEAVY}


ENTRY_MODULES = sorted(
    value
    for path in PROJECTS
    for value in tomllib.loads(path.read_text())["project"].get("entry-points", {}).get("sia", {}).values()
)


@pytest.mark.real
def test_every_entry_module_of_the_repository_is_light() -> None:
    assert "sia_runtime.plugin" in ENTRY_MODULES
    modules = loaded("".join(f"import {module}\n" for module in ENTRY_MODULES))
    assert not {each.partition(".")[0] for each in modules} & {"pydantic", "rich", *HEAVY}


def test_the_heart_of_the_core_is_read_in_an_hour() -> None:
    lengths = {name: len((CORE / f"{name}.py").read_text().splitlines()) for name in HEART}
    assert sum(lengths.values()) <= 1500, lengths


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_of_the_core_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = min(each.lineno for each in (node, *node.decorator_list))
            assert (node.end_lineno or 0) - start + 1 <= 60, f"{name_of(path)}:{node.lineno} {node.name}"


def test_a_learner_is_short() -> None:
    for path in sources("algorithms"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, name_of(path)


# Rules


def sources(*folders: str) -> list[Path]:
    """The Python files of the distributions in some of the repository's folders, seeds and tests left out."""
    projects = [path.parent for path in PROJECTS if path.relative_to(ROOT).parts[0] in folders]
    paths = [path for project in projects for path in sorted(project.glob("src/**/*.py"))]
    return [path for path in paths if not {"seed", "tests"} & set(path.relative_to(ROOT).parts)]


def packages(*folders: str) -> set[str]:
    return {path.parts[path.parts.index("src") + 1] for path in sources(*folders)}


def test_every_package_of_the_repository_is_held_to_the_import_contracts() -> None:
    """``make lint`` checks the contracts; a package that they do not name would pass unseen."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    named = packages("tasks", "algorithms", "backends", "plugins")
    assert {"sia_lawbench", "sia_playbook"} <= named
    assert set(linter["root_packages"]) == {"sia_core", *named}
    layers = linter["contracts"][0]["layers"]
    assert {name for layer in layers for name in layer.split(" | ")} == {"sia_core", *named}
    (commands,) = (each for each in linter["contracts"] if each["name"] == "A command imports no other command")
    assert set(commands["modules"]) == {*(each.module for each in OWN.values()), "sia_attacks.command"}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=name_of)
def test_the_core_imports_only_what_it_declares(path: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = {requirement.partition(">")[0] for requirement in declared} | {"sia_core"}
    assert top(imports(path)) - sys.stdlib_module_names <= allowed


KEYS = re.compile(r"(generation|rollouts|explore|answers?|calls|approval|booked)/|gate/repeated")
"""The beginnings of the ledger's keys that no other text has."""


@pytest.mark.parametrize(
    "path", sorted({*MODULES, *sources("tasks", "algorithms", "backends", "plugins")}), ids=name_of
)
def test_only_the_record_spells_a_key_of_the_ledger(path: Path) -> None:
    if path == CORE / "run" / "record.py":
        return
    spelt = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
    assert not [each for each in spelt if isinstance(each, str) and KEYS.match(each)]


@pytest.mark.real
def test_importing_the_core_starts_nothing() -> None:
    """No module-level plugin manager, thread or process: only names."""
    program = "import threading, sia_core.plugins, sia_core.run.start\nassert threading.active_count() == 1"
    modules = loaded(program)
    assert "sia_lawbench" not in modules
    assert "sia_core.builtins" not in modules
