"""The docs say what is there: generated pages are current, README commands run, links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from example_runs import smaller
from plugin_sites import write_metadata
from stranger import blocks as blocks_of

from sia_cli import main, parser_of

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*/*/README.md"))]


def blocks(language: str) -> list[str]:
    matches = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return [text for each, text in matches if each == language]


@pytest.mark.real
def test_the_generated_pages_are_current() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    written = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in pages}
    assert not [name for name in pages if written[name] != pages[name]], "run `python docs/generate.py`"


def test_everything_public_is_explained() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert not [name for page in generate["API"] for name in generate["undocumented"](page)]


def test_everything_of_the_front_has_an_example() -> None:
    page = (ROOT / "docs" / "api" / "python.md").read_text(encoding="utf-8")
    entries = re.split(r"^###+ `", page, flags=re.MULTILINE)[1:]
    assert len(entries) > 10
    assert {each.partition("`")[0] for each in entries if "```python" not in each} == {"Run", "Agent.__call__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/tutorial-task.md", "docs/tutorial-algorithm.md"])
def test_a_first_page_says_what_to_do_where_pip_finds_no_distribution(name: str) -> None:
    assert "releases.md#where-pip-finds-them" in (ROOT / name).read_text(encoding="utf-8")
    assert "\n## Where pip finds them\n" in (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")


@pytest.mark.real
@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller(ROOT / "examples" / "sums", tmp_path / "examples" / "sums", 160)
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 4
    for program, *arguments in commands:
        assert program == "sia"
        subprocess.run([sys.executable, "-m", "sia_cli", *arguments], check=True, capture_output=True)
    assert (tmp_path / "best-agent" / "run.py").is_file()


def test_each_message_of_the_troubleshooting_page_is_in_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    sources = [*(ROOT / "sia_core").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert len(messages) > 10
    assert not [part for message in messages for part in message.split("...") if part not in code]


@pytest.mark.real
@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/api/python.md"])
def test_the_python_of_a_page_runs_as_one_script_without_a_main_guard(page: str, tmp_path: Path) -> None:
    texts = [text for language, _, text in blocks_of(ROOT / page) if language == "python"]
    (tmp_path / "script.py").write_text("\n".join(texts))
    command = [sys.executable, "script.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "promoted" in result.stdout
    assert "Traceback" not in result.stderr


def test_the_words_of_a_make_target_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\$ make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def installed_from_the_plugin_page(site: Path, name: str, kind: str) -> str:
    """Install a plugin of docs/plugins.md into a folder; the source of the module that is not its entry module."""
    matches = BLOCK.findall((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))
    sources = {text.splitlines()[0]: text for language, text in matches if language == "python"}
    package = site / f"sia_{name}"
    package.mkdir()
    for module in ("plugin", kind):
        (package / f"{module}.py").write_text(sources[f"# sia_{name}/{module}.py"])
    write_metadata(site, f"sia-{name}", f"[sia]\n{name} = sia_{name}.plugin\n")
    return sources[f"# sia_{name}/{kind}.py"]


@pytest.mark.real
def test_the_command_of_the_plugin_page_runs_by_name(tmp_path: Path) -> None:
    installed_from_the_plugin_page(tmp_path, "hello", "command")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "sia_cli", "hello", "World"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Hello, World.\n", "")


@pytest.mark.real
def test_the_task_of_the_plugin_page_runs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = installed_from_the_plugin_page(tmp_path, "parity", "task")
    run = [sys.executable, "-m", "sia_cli", "run", "--plugin", "parity", "--generations", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 0.3 < json.loads(result.stdout)["sealed"]["final"]["value"] < 0.7
    assert len(task.splitlines()) <= 40


@pytest.mark.real
def test_the_agent_of_its_page_runs_with_its_manifest_and_its_catalogue_is_one(tmp_path: Path) -> None:
    matches = BLOCK.findall((ROOT / "docs" / "your-own-agent.md").read_text(encoding="utf-8"))
    (code,) = (text for language, text in matches if language == "python")
    manifest, catalogue = (text for language, text in matches if language == "toml")
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "harness.py").write_text(code)
    (agent / "harness.toml").write_text(manifest)
    (agent / "playbook.toml").write_text(catalogue)
    cases = [json.dumps({"input": f"case {number}", "answer": number}) + "\n" for number in range(64)]
    (tmp_path / "cases.jsonl").write_text("".join(cases))
    where = ["--harness", str(agent), "--data", str(tmp_path / "cases.jsonl"), "--runs-dir", str(tmp_path / "runs")]
    assert main(["run", *where, "--verifier", "exact"]) == 0


def commands_of(page: Path) -> list[str]:
    """The commands of a page that start with sia, each on a line of a block of a shell."""
    lines = [
        line.removeprefix("$ ").strip()
        for language, _, text in blocks_of(page)
        for line in text.replace("\\\n", " ").splitlines()
        if language == "sh" or (language == "console" and line.startswith("$ "))
    ]
    without = [re.sub(r"^(\w+=\S+ )+", "", line) for line in lines]  # variables before it
    return [line for line in without if line.startswith("sia ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_is_one(page: Path) -> None:
    for line in commands_of(page):
        arguments = shlex.split(line, comments=True)[1:]
        parser_of(arguments).parse_args(arguments)  # it exits where an option is unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_and_toml_on_a_page_can_be_read(page: Path) -> None:
    for language, _, text in blocks_of(page):
        if language == "python":
            ast.parse(text)
        if language == "toml":
            tomllib.loads(text)


@pytest.mark.parametrize("page", ["adapters.md", "testing-plugins.md"])
def test_the_classes_of_a_page_can_be_defined(page: str) -> None:
    for language, _, text in blocks_of(ROOT / "docs" / page):
        if language == "python":
            exec(text, {"__name__": "example"})


@pytest.mark.real
def test_the_contract_suite_of_its_page_passes(tmp_path: Path) -> None:
    (text,) = (text for language, _, text in blocks_of(ROOT / "docs" / "testing-plugins.md") if language == "python")
    (tmp_path / "test_longer.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "5 passed" in result.stdout


@pytest.mark.real
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "site" / "tutorial-task" / "index.html").is_file()


def test_the_algorithm_of_the_tutorial_has_fewer_than_40_lines() -> None:
    (text,) = (
        text for _, title, text in blocks_of(ROOT / "docs/tutorial-algorithm.md") if title.endswith("algorithm.py")
    )
    assert len(text.splitlines()) < 40
