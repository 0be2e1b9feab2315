"""The docs say what is there: generated pages are current, README commands run, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from sia_core.cli import main
from sia_core.hookspecs import Offer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*/*/README.md"))]


def blocks(language: str) -> list[str]:
    found = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return [text for each, text in found if each == language]


@pytest.mark.parametrize("name", ["hooks.md", "cli.md"])
def test_a_generated_page_is_current(name: str) -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages[name], "run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.real
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 4
    for program, *arguments in commands:
        assert program == "sia"
        assert main(arguments) == 0
    assert (tmp_path / "best-agent" / "run.py").is_file()


def test_the_plugin_of_the_readme_offers_what_it_says() -> None:
    (source,) = blocks("python")
    module: dict[str, object] = {}
    exec(source, module)
    assert module["sia_tasks"]() == [Offer("mytask", "one line for people", "my_package.task:MyTask")]  # type: ignore[operator]


def test_the_words_of_a_make_target_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\$ make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
