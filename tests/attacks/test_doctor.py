"""``sia doctor --attacks``: what it prints, and when it says that something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sia_attacks import catalogue
from sia_attacks import command as attacks
from sia_attacks.arena import Result
from sia_attacks.catalogue import Attack
from sia_cli import main
from sia_core.errors import SandboxError

from .conftest import SUITE

TRIED = [SUITE[name] for name in ("tcp", "daemon", "not-a-number")]

Doctor = Callable[..., tuple[int, str, str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """``doctor(lacks, open, *options)`` runs the command where each sandbox lacks and lets through so much."""

    def start(lacks: dict[str, Sequence[str]], passes: dict[str, Sequence[str]], *options: str) -> tuple[int, str, str]:
        def examine(plugins: Any, name: str) -> dict[str, Any]:
            gaps = {each: f"no {each}" for each in lacks[name]}
            usable = not {"files", "net", "environment", "processes"} & gaps.keys()
            starts = len(gaps) < 6
            return {"name": name, "usable": usable, "starts": starts, "lacks": gaps, "may_not_stop": [], "cause": ""}

        def attack(plugins: Any, name: str, suite: Sequence[Attack]) -> list[Result]:
            if "error" in passes[name]:
                raise SandboxError("it did not start")
            return [Result(each, name, ("got out",) if each.name in passes[name] else (), ()) for each in suite]

        monkeypatch.setattr(catalogue, "attacks", lambda: TRIED)
        monkeypatch.setattr(attacks, "examine_sandbox", examine)
        monkeypatch.setattr(attacks, "_attack", attack)
        monkeypatch.setattr(attacks, "offered", lambda plugins: list(lacks))
        code = main(["doctor", "--attacks", *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return start


def test_the_json_is_an_attack_a_row_with_a_verdict_a_sandbox(doctor: Doctor) -> None:
    code, out, _ = doctor({"strong": [], "weak": ["processes"]}, {"strong": [], "weak": ["daemon"]}, "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "attack": each.name,
            "what": each.what,
            "results": {"strong": "stopped", "weak": "open" if each.name == "daemon" else "stopped"},
        }
        for each in TRIED
    ]


def test_the_table_names_what_is_open_and_whether_the_sandbox_had_promised_to_stop_it(doctor: Doctor) -> None:
    code, out, _ = doctor({"strong": [], "weak": ["processes"]}, {"strong": ["tcp"], "weak": ["daemon"]})
    assert code == 1
    assert "strong: 2 of 3 attacks stopped" in out
    assert "open tcp: got out; which it guarantees to stop" in out
    assert "open daemon: got out; as it does not guarantee to stop it" in out


@pytest.mark.parametrize(
    ("lacks", "passes", "code"),
    [
        ({"a": []}, {"a": []}, 0),
        ({"a": []}, {"a": ["tcp"]}, 1),
        ({"a": []}, {"a": ["not-a-number"]}, 1),  # that no guarantee of a sandbox's stops
        ({"a": ["total_disk"]}, {"a": ["daemon"]}, 1),
        ({"a": [], "b": ["net"]}, {"a": [], "b": ["tcp"]}, 0),
        ({"a": [], "b": ["net"]}, {"a": [], "b": ["daemon"]}, 0),  # no run uses it unless it is told to
        ({"a": [*"123456"]}, {"a": []}, 1),  # none starts
        ({"a": []}, {"a": ["error"]}, 1),
    ],
)
def test_the_exit_code_is_1_where_a_sandbox_that_runs_use_breaks_its_word(
    lacks: dict[str, Sequence[str]], passes: dict[str, Sequence[str]], code: int, doctor: Doctor
) -> None:
    assert doctor(lacks, passes)[0] == code


def test_a_sandbox_that_does_not_start_is_named_and_the_others_are_attacked(doctor: Doctor) -> None:
    code, out, err = doctor({"a": [*"123456"], "b": []}, {"a": [], "b": []}, "--json")
    assert code == 0
    assert "sia: a is not attacked, as it does not start here: no " in err
    assert json.loads(out)[0]["results"] == {"b": "stopped"}


@pytest.mark.real
@pytest.mark.slow
def test_the_real_command_attacks_every_sandbox_that_starts_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "attacks", lambda: TRIED)
    assert main(["doctor", "--attacks", "--json"]) == 0
    printed = capsys.readouterr()
    for row in json.loads(printed.out):
        assert row["results"]
        assert set(row["results"].values()) == {"stopped"}
    assert "3 attacks on " in printed.err
