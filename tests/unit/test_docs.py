"""The docs say what is there: generated pages are current, README commands run, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
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
    assert len(commands) == 5
    for program, *arguments in commands:
        assert program == "sia"
        short = ["--budget", "seconds=12"] if "weights" in arguments else []  # the whole of it is in test_words.py
        subprocess.run([sys.executable, "-m", "sia_core", *arguments, *short], check=True, capture_output=True)
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


@pytest.mark.real
def test_the_task_of_the_plugin_page_runs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = BLOCK.findall((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))
    plugin, task = [text for language, text in found if language == "python"]
    package, about = tmp_path / "sia_parity", tmp_path / "sia_parity-0.1.0.dist-info"
    package.mkdir()
    (package / "plugin.py").write_text(plugin)
    (package / "task.py").write_text(task)
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sia-parity\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[sia]\nparity = sia_parity.plugin\n")
    run = [sys.executable, "-m", "sia_core", "run", "--plugin", "parity", "--generations", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.3 < json.loads(done.stdout)["sealed"]["final"]["value"] < 0.7
    assert len(task.splitlines()) <= 40


@pytest.mark.real
def test_the_agent_of_its_page_runs_with_its_manifest_and_its_catalogue_is_one(tmp_path: Path) -> None:
    found = BLOCK.findall((ROOT / "docs" / "your-own-agent.md").read_text(encoding="utf-8"))
    (code,) = (text for language, text in found if language == "python")
    manifest, catalogue = (text for language, text in found if language == "toml")
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "harness.py").write_text(code)
    (agent / "harness.toml").write_text(manifest)
    (agent / "playbook.toml").write_text(catalogue)
    cases = [json.dumps({"input": f"case {number}", "answer": number}) + "\n" for number in range(80)]
    (tmp_path / "cases.jsonl").write_text("".join(cases))
    where = ["--harness", str(agent), "--data", str(tmp_path / "cases.jsonl"), "--runs-dir", str(tmp_path / "runs")]
    assert main(["run", *where, "--verifier", "exact"]) == 0
