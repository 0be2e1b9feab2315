"""`sia new`: what is rendered is small, clean and whole. That it installs and runs is in tests/runs/test_new.py."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sia_cli import main
from sia_core.errors import UsageError
from sia_core.hookspecs import HOOK_OF_KIND
from sia_testing import command as new
from sia_testing.new import SORTS, rendered, write

ROOT = Path(__file__).parents[2]


def test_every_kind_that_a_plugin_offers_can_be_begun_but_for_sandboxes_and_views() -> None:
    assert set(SORTS) == set(new.KINDS) == HOOK_OF_KIND.keys() - {"sandbox", "view", "tracker"}


@pytest.mark.parametrize("kind", new.KINDS)
def test_the_files_are_those_of_a_package_with_an_entry_point(kind: str) -> None:
    files = rendered(kind, "my-own")
    assert {"pyproject.toml", "README.md", "src/sia_my_own/plugin.py", f"tests/test_{kind}.py"} <= files.keys()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "sia-my-own"
    assert project["entry-points"]["sia"] == {"my-own": "sia_my_own.plugin"}
    for path, text in files.items():
        assert "$" not in text.replace("$ ", ""), path
        if path.endswith(".py"):
            ast.parse(text)
    assert "://" not in files["README.md"]  # to no page that somebody else may hold


@pytest.mark.real
@pytest.mark.parametrize("kind", new.KINDS)
def test_the_code_is_clean_by_the_rules_of_this_repository(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "it", rendered(kind, "mine"))
    for command in (["check"], ["format", "--check"]):
        config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *config, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout


def test_a_first_algorithm_has_fewer_than_40_lines() -> None:
    assert len(rendered("algorithm", "mine")["src/sia_mine/algorithm.py"].splitlines()) < 40


@pytest.mark.parametrize("name", ["My Task", "1st", "a_b", "é", "", "-a", "../up"])
def test_a_name_that_no_package_can_have_is_refused_with_one_that_can(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"such as '[a-z][a-z0-9-]*'"):
        rendered("task", name)
    assert main(["new", "task", "--into", str(tmp_path), "--", name]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["core", "cli", "testing"])
def test_a_name_whose_package_is_installed_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"a package sia_{name} is installed here"):
        rendered("task", name)


def test_what_is_there_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sia-mine").mkdir()
    assert main(["new", "task", "mine", "--into", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list((tmp_path / "sia-mine").iterdir())
