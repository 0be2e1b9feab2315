"""Commands: those of SIA come from a table, those of plugins by their offers, and a bad one is said in one line."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_sites import write_metadata

from sia_cli import commands, doctor, main, parser_of
from sia_cli.sandboxes import may_pass
from sia_core.command_protocol import Command
from sia_core.errors import PluginError
from sia_core.plugins import ALLOW_VARIABLE

Write = Callable[..., None]

LACKING = {"name": "weak", "usable": False, "starts": True, "lacks": {"net": "no namespaces"}, "cause": ""}

MODULE = """
from sia_core.errors import UsageError
from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


class Mine:
    def add_arguments(self, parser):
        {add_arguments}

    def run(self, options):
        {run}


@hookimpl
def sia_commands():
    return [Offer({name!r}, "do 100% of mine", __name__ + ":Mine")]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Installs a distribution that offers one command."""
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def _write(
        distribution: str,
        name: str = "mine",
        *,
        run: str = "return len(options.words)",
        add_arguments: str = "parser.add_argument('words', nargs='*')",
    ) -> None:
        module = f"plugin_of_{distribution.replace('-', '_')}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(MODULE.format(name=name, run=run, add_arguments=add_arguments))
        write_metadata(tmp_path, distribution, f"[sia]\n{distribution} = {module}\n")
        importlib.invalidate_caches()

    return _write


def err(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of standard error."""
    text = capsys.readouterr().err
    assert text.startswith("sia: ")
    assert text.count("\n") == 1
    return text


# SIA's own


@pytest.mark.parametrize("name", commands.OWN)
def test_every_command_of_the_table_is_there(name: str) -> None:
    assert isinstance(commands.own(name), Command)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("audit", "sia-audit"),
        ("compare", "sia-compare"),
        ("export", "sia-deploy"),
        ("import-task", "sia-released"),
        ("new", "sia-testing"),
        ("serve", "sia-deploy"),
    ],
)
def test_a_command_whose_distribution_is_missing_says_what_to_install(
    name: str, distribution: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = commands.OWN[name].module
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    assert main([name, "--help"]) == 2
    assert err(capsys).endswith(f"pip install {distribution}\n")


@pytest.mark.real
def test_a_module_that_a_command_lacks_is_not_taken_for_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "command_that_lacks.py").write_text("import something_else_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(commands.OWN, "compare", commands.Own("compare", "command_that_lacks"))
    assert main(["compare"]) == 2
    assert "No module named 'something_else_that_is_missing'; `pip install 'sia-core[all]'`" in capsys.readouterr().err


@pytest.mark.real
def test_the_doctor_needs_the_attacks_only_to_try_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sia_attacks.command", None)
    assert main(["doctor", "--attacks"]) == 2
    assert "pip install sia-attacks" in err(capsys)
    monkeypatch.setattr(doctor, "examine_sandbox", lambda plugins, name: {**LACKING, "may_not_stop": may_pass(["net"])})
    assert main(["doctor", "--json"]) == 1
    assert {tuple(row["may_not_stop"]) for row in json.loads(capsys.readouterr().out)["sandboxes"]} == {()}


# Those of plugins


def test_a_command_of_a_plugin_runs_by_its_name_and_gives_the_exit_code(write: Write) -> None:
    write("a-stranger")
    assert main(["mine"]) == 0
    assert main(["mine", "a", "b", "c"]) == 3


def test_it_has_its_own_help(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("a-stranger")
    with pytest.raises(SystemExit) as ended:
        main(["mine", "--help"])
    assert ended.value.code == 0
    assert "Do 100% of mine." in (text := capsys.readouterr().out)
    assert "words" in text


def test_the_help_of_sia_lists_its_own_and_says_where_others_are(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a-stranger", "distinctive")
    assert main([]) == 2
    text = " ".join(capsys.readouterr().out.split())
    assert "distinctive" not in text
    assert "`sia plugins`" in text
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ("command", "distinctive", "ok") in {(row["kind"], row["name"], row["status"]) for row in rows}


@pytest.mark.parametrize(
    ("typed", "meant"), [("comapre", "compare"), ("rnu", "run"), ("distinktive", "distinctive"), ("doc", "doctor")]
)
def test_an_unknown_command_says_what_is_near_and_where_to_look(
    write: Write, capsys: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    write("a-stranger", "distinctive")
    assert main([typed]) == 2
    text = err(capsys)
    assert repr(meant) in text.partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert "`sia plugins` lists" in text
    assert f"sia-{typed}" not in text  # nobody should be told to install a typing slip


def test_a_command_of_a_broken_plugin_says_what_is_broken(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("sia-mine", add_arguments="this is no Python")
    assert main(["mine"]) == 2
    assert "sia-mine 1.0 is broken" in err(capsys)


def test_two_distributions_of_one_name_are_both_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("one-stranger")
    write("another-stranger")
    assert main(["mine"]) == 2
    assert "another-stranger 1.0, one-stranger 1.0" in err(capsys)


def test_no_plugin_takes_the_place_of_a_command_of_sia(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("a-stranger", "runs", run="raise SystemExit(9)")
    assert main(["runs"]) == 0
    assert main(["plugins", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out.partition("\n")[2]) if row["kind"] == "command"]
    assert (row["distribution"], row["status"]) == ("a-stranger", "ignored")
    assert "`sia runs` is SIA's own" in row["cause"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ({"run": "return {}['missing']"}, "KeyError: 'missing'"),
        ({"run": "raise SystemExit('some reason')"}, "SystemExit: some reason"),
        ({"run": "pass"}, "TypeError: run returned None, which is no exit code"),
        ({"add_arguments": "parser.add_argument('--help')"}, "ArgumentError: argument --help: conflicting"),
        ({"add_arguments": "parser.add_argument('x', type={}.__getitem__)"}, "KeyError: 'a'"),
    ],
)
def test_a_command_that_raises_is_one_line_with_its_distribution(
    write: Write, capsys: pytest.CaptureFixture[str], code: dict[str, str], reason: str
) -> None:
    write("a-stranger", **code)
    assert main(["mine", "a"]) == 2
    assert f"command 'mine' of a-stranger 1.0 failed: {reason}" in err(capsys)


def test_an_error_that_a_command_means_for_the_user_is_passed_on(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a-stranger", run="raise UsageError('no such file')")
    assert main(["mine"]) == 2
    assert err(capsys) == "sia: no such file\n"


def test_a_command_may_exit_with_a_code(write: Write) -> None:
    write("a-stranger", run="raise SystemExit(7)")
    with pytest.raises(SystemExit) as ended:
        main(["mine"])
    assert ended.value.code == 7


@pytest.mark.real
def test_a_command_whose_reader_left_ends_as_those_of_sia(write: Write, tmp_path: Path) -> None:
    write("a-stranger", run="print('x' * 10_000_000)")
    script = f"PYTHONPATH={tmp_path} {sys.executable} -m sia_cli mine | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (result.stdout.strip(), result.stderr) == ("141", "")


def test_only_plugins_that_are_allowed_give_commands(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a-stranger")
    monkeypatch.setenv(ALLOW_VARIABLE, "another")
    with pytest.raises(PluginError, match="limits them"):
        parser_of(["mine"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--harnes", "agent"], "--harnes agent (did you mean '--harness'?)"),
        (["run", "--gen=3"], "--gen=3 (did you mean '--generations'?)"),
        (["run", "lawbench"], "lawbench; `sia run --help` lists the options"),
        (["report", "--jsn"], "--jsn (did you mean '--json'?)"),
        (["--vers"], "--vers (did you mean '--version'?)"),
        (["run", "--gen\x1b[2J"], r"--gen\x1b[2J; `sia run --help` lists the options"),
    ],
)
def test_a_shortened_or_misspelt_option_is_refused_with_the_whole_one(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"unrecognized arguments: {says}" in capsys.readouterr().err


def test_a_path_that_the_system_does_not_take_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--runs-dir", "x" * 5000]) == 2
    assert capsys.readouterr().err.endswith("xxx: File name too long; check this name, and who may use it\n")


def test_a_file_in_the_place_of_the_folder_of_runs_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").touch()
    for command in (["runs"], ["run", "--plugin", "lawbench", "--dry-run"], ["run", "--plugin", "lawbench"]):
        assert main([*command, "--runs-dir", str(tmp_path / "runs")]) == 2
        assert "this is no folder" in capsys.readouterr().err


def test_a_working_folder_that_was_removed_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["run", "--harness", "agent", "--data", "cases.jsonl"]) == 2
    assert "the working folder is not there any more" in capsys.readouterr().err
