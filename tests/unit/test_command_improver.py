"""A program of the user's as the improver: it gets a folder, asks for checks, and leaves a decision."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from played_model import World

from sia_core.errors import ModelError, UsageError
from sia_core.run import record
from sia_core.run.ledger import Ledger
from sia_llm.command import Command
from sia_testing.fakes import SKILL, harness

pytestmark = pytest.mark.thorough

HELP = f"""
import json, pathlib, subprocess, sys, time
here, log = pathlib.Path.cwd(), pathlib.Path(sys.argv[1])
with log.open("a") as file:
    file.write("started\\n")
evidence = json.loads((here / "evidence.json").read_text())

def skill(value, folder="working-1"):
    (here / folder / "{SKILL}").write_text(f"{{value}}\\n")

def change(name="better", gain=0.3, **more):
    prediction = {{"gain": gain, "where": "everywhere"}}
    return {{"lever": "harness", "name": name, "reason": "why not", "prediction": prediction, **more}}

def decide(*changes):
    (here / "decision.json").write_text(json.dumps({{"changes": list(changes)}}))

def check(what):
    return subprocess.run(["./check", what], capture_output=True, text=True).stdout

STOP = {{"lever": "stop", "reason": "enough"}}
again = (here / "objection.txt").exists() and (here / "objection.txt").read_text()
"""
STOPS = "decide(STOP)"
IMPROVES = "if evidence['generation']:\n    decide(STOP)\nelse:\n    skill(0.7)\n    decide(change())"


class Programmed(World):
    """A run of the fake task whose improver is a program."""

    def __init__(self, folder: Path, program: str, seconds: str = "60") -> None:
        super().__init__(folder)
        self.log = folder.with_name(f"{folder.name}.log")
        script = folder.with_name(f"{folder.name}.py")
        script.write_text(HELP + program)
        self.command = shlex.join([sys.executable, str(script), str(self.log)])
        self.seconds = seconds

    def improver(self) -> Any:
        return Command(self.command, self.seconds)

    @property
    def started(self) -> int:
        return len(self.log.read_text().splitlines())


def test_a_program_edits_a_working_copy_checks_it_and_stops(tmp_path: Path) -> None:
    checks = "print(check('working-1'), check('decision'), check('nothing'), file=log.open('a'))"
    world = Programmed(tmp_path / "run", IMPROVES.replace("decide(change())", f"decide(change())\n    {checks}"))
    report = world.run()
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("better", True)]
    assert report["agent"]["harness"] == harness(0.7).digest
    assert report["stopped"] == "enough"
    log = world.log.read_text()
    assert "It runs: 10 of 10 answers are valid." in log
    assert "decision.json can be used" in log
    assert "no working copy 'nothing'; there are working-1, working-2" in log


def test_each_working_copy_is_a_candidate(tmp_path: Path) -> None:
    program = IMPROVES.replace(
        "decide(change())", "skill(0.5, 'working-2')\n    decide(change(), change('other', folder='working-2'))"
    )
    report = Programmed(tmp_path / "run", program).run()
    assert [row["name"] for row in report["generations"]] == ["better", "other"]


WRONG = [
    ("pass", "it was not written"),
    ("(here / 'decision.json').write_text('{')", "is not JSON"),
    ("(here / 'decision.json').symlink_to('/etc/passwd')", "decision.json"),
    ("(here / 'decision.json').write_text(' ' * 2_000_000)", "decision.json"),
    ("decide()", "changes"),
    ("decide(STOP, change())", "a stop stands alone"),
    ("decide(change())", "does not differ from its parent"),
    ("skill(0.5); decide(change(), change())", "two changes are of the same working copy"),
    ("decide(change(folder='elsewhere'))", "no working copy 'elsewhere'"),
    ("decide(change(parent='nobody'))", "no agent 'nobody' in the archive"),
    ("(here / 'working-1' / 'link').symlink_to('/etc/passwd'); decide(change())", "working-1"),
    (
        "(here / 'working-1').rename(here / 'mine'); (here / 'working-1').symlink_to(here / 'mine'); decide(change())",
        "is a link",
    ),
    ("(here / 'working-1' / 'blob').write_bytes(b'\\xff'); decide(change())", "is not a text file"),
    ("skill('broken'); decide(change())", "It must run before it can be tried"),
]


@pytest.mark.parametrize(("program", "why"), WRONG)
def test_what_cannot_be_used_is_objected_to_and_the_program_is_started_again(
    tmp_path: Path, program: str, why: str
) -> None:
    world = Programmed(
        tmp_path / "run", f"if again:\n    log.open('a').write(again)\n    decide(STOP)\nelse:\n    {program}"
    )
    assert world.run()["stopped"] == "enough"
    log = world.log.read_text()
    assert log.count("started\n") == 2
    assert why in log


ASKS = """
def ask(name):
    (here / 'checks' / 'new').write_text('nothing')
    (here / 'checks' / 'new').rename(here / 'checks' / f'{name}.asked')
"""
IN_THE_WAY = [
    "(here / 'checks' / 'odd.text').symlink_to(victim)",
    "(here / 'checks' / 'odd.text').mkdir()",
    "os.mkfifo(here / 'checks' / 'odd.text')",
    "(here / 'checks' / 'odd.answered').mkdir()",
    "(here / 'checks').rename(here / 'old'); (here / 'checks').symlink_to(victim.parent)",
]


@pytest.mark.parametrize("odd", IN_THE_WAY)
def test_an_answer_to_a_check_leads_nowhere_else_and_keeps_no_other_back(tmp_path: Path, odd: str) -> None:
    victim = tmp_path / "elsewhere" / "victim"
    victim.parent.mkdir()
    victim.write_text("precious")
    ended = "check('nothing')" if "rename" not in odd else "''"
    prints = f"print({ended}, file=log.open('a'))"
    program = f"import os{ASKS}victim = pathlib.Path({str(victim)!r})\n{odd}\nask('odd')\n{prints}\n{STOPS}"
    world = Programmed(tmp_path / "run", program)
    assert world.run()["stopped"] == "enough"
    assert victim.read_text() == "precious"
    assert {path.name for path in victim.parent.iterdir()} <= {"victim", "odd.asked"}
    assert not ended.startswith("check") or "no working copy 'nothing'" in world.log.read_text()


def test_folders_in_folders_without_end_are_objected_to_as_other_things_are(tmp_path: Path) -> None:
    deep = "import os\nos.chdir('working-1')\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\nos.chdir(here)\n"
    program = f"if again:\n    log.open('a').write(again)\n    decide(STOP)\n    sys.exit()\n{deep}decide(change())"
    world = Programmed(tmp_path / "run", program)
    assert world.run()["stopped"] == "enough"
    assert "lies deeper than 32 folders" in world.log.read_text()


def test_a_program_that_never_decides_costs_a_generation_and_that_is_said(tmp_path: Path) -> None:
    world = Programmed(tmp_path / "run", "if evidence['generation']:\n    decide(STOP)")
    world.run()
    assert world.started >= 3
    assert any(
        "left no decision that can be tried: decision.json: it was not written" in text for text in world.notices
    )


def test_a_program_that_takes_too_long_is_killed_and_is_not_started_again_for_that_decision(tmp_path: Path) -> None:
    world = Programmed(tmp_path / "run", "decide(STOP) if evidence['generation'] else time.sleep(600)", seconds="2")
    world.run()
    assert any("it took more than 2 s" in text for text in world.notices)
    with Ledger.read(world.folder) as ledger:
        assert ledger.get(record.call(record.decided(0), "program-0")) is not None
        assert ledger.get(record.call(record.decided(0), "program-1")) is None


def test_a_program_that_fails_stops_the_run_and_a_resumed_one_starts_it_again(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ended with 1: .*no network.*sia resume"):
        Programmed(tmp_path / "run", "raise SystemExit('no network')").run()
    assert Programmed(tmp_path / "run", STOPS).run()["stopped"] == "enough"


def test_a_run_that_was_killed_after_the_decision_does_not_ask_for_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Programmed(tmp_path / "run", IMPROVES)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sia_llm.folder.GivenFolder.decided", killed)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    assert world.started == 1
    again = Programmed(tmp_path / "run", IMPROVES)
    report = again.run()
    assert again.started == 2, "once for each of the two decisions"
    assert report["agent"]["harness"] == harness(0.7).digest


def test_a_replay_starts_no_program(tmp_path: Path) -> None:
    world = Programmed(tmp_path / "run", IMPROVES)
    world.run()

    class Unrecorded(Exception):
        pass

    class Readonly(Ledger):
        def record(self, key: str, value: Any) -> Any:
            raise Unrecorded(key)

    with Readonly.read(world.folder) as ledger:
        loop = world.loop(ledger)
        loop.draft()
        assert [each.lever for each in loop.parts.improver.decide(loop.evidence(0))] == ["harness"]
        with pytest.raises(Unrecorded, match="generation/7"):
            loop.parts.improver.decide(loop.evidence(7))
    assert world.started == 2


def test_a_program_that_is_not_there_is_said_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="there is no such program"):
        Command("no-such-program").check()
    with pytest.raises(UsageError, match="give the program"):
        Command("")


def test_the_folder_says_what_is_known_and_holds_nothing_of_the_gate(tmp_path: Path) -> None:
    program = "import shutil; shutil.copytree(here, log.with_suffix('.seen')); decide(STOP)"
    world = Programmed(tmp_path / "run", program)
    world.run()
    folder = world.log.with_suffix(".seen")
    facts = json.loads((folder / "evidence.json").read_text())
    assert facts["working"] == {"working-1": facts["incumbent"], "working-2": facts["incumbent"]}
    rows = (folder / "rollouts" / f"{facts['incumbent']}.jsonl").read_text().splitlines()
    assert {"instance", "outcome", "reward", "answer"} <= set(json.loads(rows[0]))
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert not any("gate-" in text or "sealed-" in text for text in texts)
    assert "./check working-1" in (folder / "README.md").read_text()
