"""The architecture page agrees with the code, and plugins import only what is public of the core."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = (
    "tasks/*",
    "algorithms",
    "backends/*",
    *(
        f"plugins/{name}"
        for name in ["claude", "dashboard", "litellm", "playbook", "tinker", "torch", "trackers", "vllm"]
    ),
)
"""The packages that see of the core what a stranger's plugin sees."""


CORE_LINES = 7_404
"""Lines of Python in the core, which docs/adr/0008-a-small-core.md gives reasons for. Lower it with what leaves."""


def test_the_core_does_not_grow() -> None:
    files = (ROOT / "sia_core").rglob("*.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= CORE_LINES


def imports(path: Path) -> Iterator[str]:
    """Every name that a file imports from the core, those of type checking too, with its module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "sia_core")


def module_of(name: str) -> str:
    """The module that an imported name is of, or is."""
    path = ROOT.joinpath(*name.split("."))
    return name if path.is_dir() or path.with_suffix(".py").is_file() else name.rpartition(".")[0]


@pytest.mark.parametrize("package", [str(path.relative_to(ROOT)) for each in PLUGINS for path in ROOT.glob(each)])
def test_a_plugin_imports_only_public_modules_of_the_core(package: str) -> None:
    public = re.findall(r"^\| \[`(sia_core\.\S+)`\]", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    sources = (ROOT / package / "src").rglob("*.py")
    imported = {(path, module_of(name)) for path in sources for name in imports(path)}
    assert imported
    private = sorted(f"{path.relative_to(ROOT)}: {module}" for path, module in imported if module not in public)
    assert not private, "not in docs/api.md"


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {
    (about := tomllib.loads(path.read_text(encoding="utf-8"))["project"])["name"]: (path.parent, about)
    for place in ("algorithms", "backends/*", "plugins/*", "tasks/*")
    for path in ROOT.glob(f"{place}/pyproject.toml")
}
"""Every package but the core by its name: its folder, and the ``project`` table of its pyproject.toml."""
STEP = re.compile(r"^\d+\. `(\S+)`: `(\S+)`: [A-Z].+\.$")


def walk(title: str) -> list[tuple[str, str]]:
    """The steps of a walk: the file and the name that each one points to."""
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if re.match(r"\d+\.", line)]
    matches = [STEP.match(line) for line in lines]
    assert lines
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return [(match[1], match[2]) for match in matches if match]


def defines(path: Path, name: str) -> bool:
    """Whether a file defines a function, a class, or a method as ``Class.method``."""
    scope: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inside = [each for each in ast.iter_child_nodes(scope) if isinstance(each, kinds) and each.name == part]
        if not inside:
            return False
        scope = inside[0]
    return True


@pytest.mark.parametrize("title", ["The way of a rollout", "The way of an update"])
def test_each_step_of_a_walk_names_a_function_that_its_file_defines(title: str) -> None:
    for file, name in walk(title):
        assert (ROOT / file).is_file(), file
        assert defines(ROOT / file, name), f"{file} defines no {name}"


def test_a_rollout_passes_at_most_14_files() -> None:
    assert len({file for file, _ in walk("The way of a rollout")}) <= 14


def test_the_halves_of_a_job_are_files() -> None:
    files = re.findall(r"`((?:sia_core|plugins)/\S+\.py)`", PAGE)
    assert files
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_picture_shows_every_package_in_its_layer() -> None:
    picture = PAGE.partition("```text\n")[2].partition("```")[0]
    rows = [set(re.findall(r"\bsia-\w+", row)) for row in re.split(r"^\+-+\+\n", picture, flags=re.MULTILINE)]
    (layers,) = (each["layers"] for each in PROJECT["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    assert [row for row in rows if row] == [
        {name.replace("_", "-") for name in re.findall(r"\w+", each)} for each in layers
    ]
    assert set().union(*rows) == {"sia-core", *PACKAGES}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_package_depends_on_the_packages_that_it_imports(name: str) -> None:
    folder, about = PACKAGES[name]
    declared = {re.split(r"[^\w-]", each)[0] for each in about["dependencies"]}
    source = "\n".join(each.read_text(encoding="utf-8") for each in (folder / "src").rglob("*.py"))
    imported = {each.replace("_", "-") for each in re.findall(r"^ *(?:from|import) (sia_\w+)", source, re.MULTILINE)}
    assert not imported - declared - {name}
