"""Options from a file: what it may say, what the command line overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sia_cli import main, parser_of
from sia_cli.config_file import with_file
from sia_cli.configuration import config_from
from sia_core.errors import UsageError

FILE = """
plugin = "reasoning"
policy = "smollm2"
levers = ["harness", "weights"]
generations = 4
allow-weak-sandbox = true

[set]
dataset = "words"

[train]
steps = 24
learning_rate = 5e-4

[budget]
seconds = 300
"""


def expanded(arguments: list[str]) -> list[str]:
    return with_file(arguments, parser_of(arguments))


def config(folder: Path, text: str, *more: str) -> Any:
    file = folder / "sia.toml"
    file.write_text(text)
    return config_from(expanded(["run", "-f", str(file), *more])[1:])


def test_a_file_says_what_options_say(tmp_path: Path) -> None:
    settings = config(tmp_path, FILE)
    assert settings.task.name == "reasoning"
    assert settings.task.settings == {"seed": 0, "dataset": "words"}
    assert settings.plan.levers == ("harness", "weights")
    assert settings.plan.generations == 4
    assert settings.lever_settings == {"weights": {"steps": "24", "learning_rate": "0.0005"}}
    assert settings.budget == {"seconds": 300.0}
    assert settings.allow_weak_sandbox


def test_options_override_the_file_wherever_they_stand(tmp_path: Path) -> None:
    settings = config(
        tmp_path, FILE, "--generations", "1", "--set", "dataset=chain_sum", "--mode", "sia-h", "--train", ""
    )
    assert settings.plan.generations == 1
    assert settings.task.settings["dataset"] == "chain_sum"
    assert settings.plan.levers == ("harness",)
    assert not settings.lever_settings


def test_a_list_that_is_given_again_adds_to_it_and_replaces_what_it_repeats(tmp_path: Path) -> None:
    settings = config(
        tmp_path, FILE, "--train", "steps=8,durable=4", "--train", "durable=2", "--budget", "rollouts=900"
    )
    assert settings.lever_settings == {"weights": {"learning_rate": "0.0005", "steps": "8", "durable": "2"}}
    assert settings.budget == {"seconds": 300.0, "rollouts": 900.0}


@pytest.mark.parametrize("again", ["900", "rollouts=900"])
def test_a_budget_of_a_bare_number_is_replaced_however_the_rollouts_are_written(tmp_path: Path, again: str) -> None:
    assert config(tmp_path, 'budget = "20000"\nplugin = "reasoning"', "--budget", again).budget == {"rollouts": 900.0}


@pytest.mark.parametrize("option", ["-f", "--file"])
def test_the_file_is_read_however_the_option_is_written(tmp_path: Path, option: str) -> None:
    (tmp_path / "sia.toml").write_text("generations = 4")
    assert "--generations=4" in expanded(["run", option, str(tmp_path / "sia.toml")])


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    settings = config(tmp_path, 'harness = "agent"\ndata = "cases.jsonl"\nseed = 3')
    assert settings.task.settings == {
        "seed": 3,
        "harness": str(tmp_path / "agent"),
        "data": str(tmp_path / "cases.jsonl"),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plugin = ", "this is not TOML"),
        pytest.param("seed = " + "9" * 5000, "this is not TOML", id="digits"),
        pytest.param("set = " + "[" * 20_000, "this is not TOML", id="depth"),
        ("[plugin]\na = 1", r"\[plugin\] is a table, and --plugin takes one value"),
        (r'data = "a\u0000b"', "with a character that no option can have"),
        ('file = "other.toml"', "names no other one"),
        ("seed = 2020-01-01", "seed is a date; write a text or a number"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        config(tmp_path, text)


def test_a_mark_of_the_order_of_bytes_is_no_part_of_a_file(tmp_path: Path) -> None:
    assert config(tmp_path, '\ufeffplugin = "reasoning"\nseed = 3').plan.seed == 3


def test_the_folder_of_a_user_that_there_is_none_of_is_not_there(tmp_path: Path) -> None:
    assert "~nobody-here/x" in config(tmp_path, 'harness = "agent"\ndata = "~nobody-here/x"').task.settings["data"]


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it cannot be read: No such file"):
        expanded(["plan", f"--file={tmp_path / 'none.toml'}"])


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("xyz", r"; `sia run --help` lists the options"),
        ("generation", r" \(did you mean 'generations'\?\)"),
    ],
)
def test_an_option_that_there_is_none_of_is_refused_by_its_name_and_file(tmp_path: Path, key: str, end: str) -> None:
    with pytest.raises(UsageError, match=rf"^-f .*sia\.toml: there is no option {key}{end}"):
        config(tmp_path, f"{key} = 4")


def test_options_are_saved_as_the_file_that_asks_for_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--harness", "agent", "--data", "cases.jsonl", "--verifier", 'python:a "b".py:score', "--seed", "3"]
    options += ["--set", "a=1", "--set", "b=ü", "--levers", "harness,weights", "--budget", "seconds=5"]
    (tmp_path / "here" / "agent").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "there" / "mine.toml"
    assert main(["run", *options, "--save-config", str(file), "--json"]) == 0
    assert f"sia run -f {file}" in capsys.readouterr().out
    assert not (tmp_path / "here" / "runs").exists()
    monkeypatch.chdir(tmp_path)
    settings, expected = config_from(expanded(["run", "-f", str(file)])[1:]), config_from(options)
    assert Path(settings.task.settings.pop("harness")).resolve() == tmp_path / "here" / "agent"
    assert Path(settings.task.settings.pop("data")).resolve() == tmp_path / "here" / "cases.jsonl"
    for name in ("harness", "data"):
        expected.task.settings.pop(name)
    assert settings == expected


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sia.toml"
    file.write_text("precious")
    assert main(["run", "--plugin", "lawbench", "--save-config", str(file)]) == 2
    assert file.read_text() == "precious"
    assert "choose another name" in capsys.readouterr().err
