"""Output of the command line: text of a run as it stands, commands that work as printed, progress on a terminal."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLE, command
from rich.console import Console

from sia_cli import doctor, main, plugins, progress
from sia_cli.configuration import config_of
from sia_cli.display import Display
from sia_cli.options import run_argument
from sia_cli.output import console, plain, print_json, shown
from sia_cli.run import add_arguments
from sia_core.hookspecs import Event, Offer
from sia_core.plugins import Plugins, Row, Source
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter

HOSTILE = "x[/b] [red] \x1b[2J\x9b1A :smile: \u202e\ud800"
VISIBLE = "x[/b] [red] \\x1b[2J\\x9b1A :smile: \\u202e\\ud800"


def gated(candidate: int, *, compared: bool = False, text: str = HOSTILE) -> tuple[str, dict[str, Any]]:
    """A candidate's step."""
    gate = {"incumbent": 0.1, "candidate": 0.2, "delta": 0.1, "ci95": [0.0, 0.2], "n": 8, "why": text}
    about = {"generation": 0, "lever": "harness", "name": text, "algorithm": None, "parent": text, "agent": text}
    why = {"reason": text, "predicted": 0.1, "accepted": False, "why": text}
    return f"generation/0/gated/{candidate}", {**about, **why, "harness": None, "gate": gate if compared else None}


def written(folder: Path, **more: Any) -> Path:
    """A run's folder whose ledger holds a start and these steps."""
    plan = {"levers": ["harness"], "seed": 0}
    started = {
        "config": {"plan": plan, "improver": HOSTILE, "budget": {}},
        "task": HOSTILE,
        "metric": {"name": HOSTILE},
    }
    with Ledger.create(folder) as ledger:
        ledger.record("run", started)
        for key, value in more.items():
            ledger.record(key, value)
    return folder


def out(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


# Untrusted text


def test_what_a_run_says_is_printed_as_it_stands_and_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = {"value": 0.5, "n": 8, "ci95": [0.4, 0.6]}
    rollouts = {"rollouts": [{"outcome": HOSTILE}]}
    steps = {
        **dict([gated(0), gated(1, compared=True)]),
        "generation/0/diff/0": "+x\n",
        "sandbox": {"name": HOSTILE, "lacks": [HOSTILE]},
        "rollouts/gate/x/0000": rollouts,
        "closed": {"why": HOSTILE},
        "sealed/initial": score,
        "sealed/final": score,
        "finished": {"spent": {HOSTILE: 3}},
    }
    written(tmp_path / "a-1", **steps)
    where = ["--runs-dir", str(tmp_path)]
    for argv in (["runs"], ["report"], ["show"], ["show", "--candidate", "0.0"]):
        text = out(capsys, *argv, *where)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert "x[/b] [red]" in text
        assert ":smile:" in text
    for argv in (["runs"], ["report"], ["show"]):
        text = out(capsys, *argv, *where, "--json")
        assert "\x9b" not in text
        assert "\u202e" not in text
        assert "x[/b] [red] \\u001b[2J\\u009b" in text


def test_the_report_names_the_attacks_that_a_weak_sandbox_may_not_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "weak-1", sandbox={"name": "process", "lacks": ["total_disk"]})
    named = ["deleted-files", "file-attributes", "huge-file", "many-files"]
    assert f"{', '.join(named)}." in out(capsys, "report", "--runs-dir", str(tmp_path))
    written(tmp_path / "strong-1", sandbox={"name": "namespaces", "lacks": []})
    assert "may not stop" not in out(capsys, "report", "strong-1", "--runs-dir", str(tmp_path))


def test_a_diff_that_goes_to_a_file_is_as_it_is_and_on_a_terminal_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a-1", **dict([gated(0)]), **{"generation/0/diff/0": "+\x1b[2J\n"})
    argv = ["show", "--candidate", "0.0", "--runs-dir", str(tmp_path)]
    assert "+\x1b[2J\n" in out(capsys, *argv)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b[2J" not in out(capsys, *argv)


def test_plugins_and_doctor_print_hostile_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "broken", HOSTILE)
    monkeypatch.setattr(Plugins, "rows", lambda self: [row])
    monkeypatch.setattr(Plugins, "of_kind", lambda self, kind: [Offer(HOSTILE, HOSTILE, "a:b")])
    assert plugins.run(argparse.Namespace(json=False)) == 0
    assert doctor.run(argparse.Namespace(json=False, attacks=False, servers=[])) == 1
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "[red]" in output


def test_shown_text_keeps_its_lines_and_letters() -> None:
    assert shown("罪名\tä\n[b]") == "罪名\tä\n[b]"
    assert shown(HOSTILE) == VISIBLE
    assert plain("a[b]", (HOSTILE, "red")).plain == f"a[b]{VISIBLE}"


def test_an_error_that_quotes_a_run_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "\x1b[2J", "--runs-dir", "/nowhere"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_json_that_is_made_harmless_is_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": HOSTILE})
    output = capsys.readouterr().out
    assert json.loads(output) == {"a": HOSTILE}
    assert "\\u202e" in output


# Hints


def test_commands_are_printed_as_they_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path("runs") / "a-1", Path("other runs") / "a-1"):
        written(folder, **dict([gated(3)]))
        where = [] if folder.parent.name == "runs" else ["--runs-dir", "other runs"]
        for verb in ("report", "show"):
            (hint,) = re.findall(r"`sia ([^`]+)`", out(capsys, verb, *where))
            words = shlex.split(hint)
            assert words[1] == ("a-1" if not where else "other runs/a-1")
            if verb == "show":
                assert "rejected" in out(capsys, *words)


def test_a_run_that_is_interrupted_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sia_core.run.run_folders.find_run", interrupted)
    for argv, hint in (
        (["resume"], "`sia resume`"),
        (["resume", "a-1", "--runs-dir", "x y"], "`sia resume a-1 --runs-dir 'x y'`"),
        (["report"], "stopped.\n"),
    ):
        assert main(argv) == 130
        assert hint in capsys.readouterr().err


def test_a_dry_run_that_is_interrupted_names_no_run_to_go_on_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sia_cli.pricing.price", interrupted)
    assert main(["run", "--plugin", "lawbench", "--dry-run"]) == 130
    assert capsys.readouterr().err == "sia: stopped.\n"


def test_the_default_folder_is_named_by_its_runs_alone() -> None:
    assert run_argument(Path("runs/a-1")) == run_argument(Path("./runs") / "a-1") == "a-1"
    assert run_argument(Path("/x/runs/a-1")) == "/x/runs/a-1"


# Runs that are not whole


def test_runs_without_steps_closed_unsealed_or_unreadable_are_listed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.create(tmp_path / "empty").close()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "ledger.db").touch()
    written(tmp_path / "started")
    written(tmp_path / "closed", closed={"why": "enough"}, draft="d" * 64, **{"sealed/initial": None})
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "ledger.db").write_bytes(b"no database" * 1000)
    where = ["--runs-dir", str(tmp_path)]
    listed = {each["run"]: each["status"] for each in json.loads(out(capsys, "runs", "--json", *where))}
    unfinished = dict.fromkeys(("empty", "nothing", "started"), "unfinished")
    assert listed == {**unfinished, "closed": "closed", "garbage": "unreadable"}
    assert "garbage: " in out(capsys, "runs", *where)
    for verb in ("show", "report"):
        for name in ("empty", "nothing", "started", "closed"):
            text = out(capsys, verb, name, *where)
            assert name in text
            assert "--candidate" not in text
            json.loads(out(capsys, verb, name, *where, "--json"))
        assert main([verb, "garbage", *where]) == 2
        assert "cannot be used" in capsys.readouterr().err
    for name, why in (("empty", "no agent yet; start it again"), ("started", "sia resume")):
        assert main(["export", name, str(tmp_path / "out"), *where]) == 2
        assert why in capsys.readouterr().err


# Rows of the report


def test_a_row_has_its_candidates_number_and_a_refusal_is_printed_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "smoke run failed: " + " ".join(f"word{number}" for number in range(30))
    written(tmp_path / "a-1", **dict([gated(0, compared=True, text="good"), gated(1, text=why)]))
    where = ["--runs-dir", str(tmp_path)]
    rows = json.loads(out(capsys, "report", "--json", *where))["generations"]
    assert [(row["index"], row["candidate"]) for row in rows] == [(0, 0), (0, 1)]
    text = out(capsys, "report", *where)
    assert f"0.1 {why} was not compared: {why}" in " ".join(text.split())
    assert "0.0 good" in out(capsys, "show", *where)


# Options


@pytest.mark.parametrize("pair", ["seed=5", "data=x", "harness=y"])
def test_a_setting_that_has_an_option_is_refused(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugin", "lawbench", "--seed", "1", "--set", pair]) == 2
    assert f"give it as --{pair.partition('=')[0]}" in capsys.readouterr().err


def options(**changes: Any) -> argparse.Namespace:
    """The options of `sia run --plugin p`, changed as given."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args(["--plugin", "p"])), **changes})


def test_other_settings_reach_the_task() -> None:
    assert config_of(options(set=["a=b=c"], seed=1)).task.settings == {"seed": 1, "a": "b=c"}


def test_the_model_and_the_settings_of_an_improver_reach_it() -> None:
    config = config_of(options(improver="litellm:openai/any", improver_set=["base_url=http://localhost:1/v1"]))
    assert config.improver == "litellm"
    assert config.improver_settings == {"model": "openai/any", "base_url": "http://localhost:1/v1"}
    assert config_of(options()).improver_settings == {}


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "1001", "9" * 5000])
def test_a_count_that_is_none_is_explained(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", f"--generations={text}"])
    assert ended.value.code == 2
    assert f"argument --generations: {text!r} is not a whole number from 0 to 1000" in capsys.readouterr().err


# Doctor


def test_a_sandbox_that_cannot_be_loaded_is_a_row_of_the_doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("bad", "sia-bad", "1")
    offers = Plugins(offers=[("sandbox", Offer("bad", "no", "no.such.module:Thing"), source)])
    monkeypatch.setattr(Plugins, "discover", lambda: offers)
    assert doctor.run(argparse.Namespace(json=True, attacks=False, servers=[])) == 1
    (row,) = json.loads(capsys.readouterr().out)["sandboxes"]
    assert (row["name"], row["usable"], row["may_not_stop"]) == ("bad", False, [])
    assert "sia-bad 1 cannot be loaded" in row["cause"]
    assert doctor.run(argparse.Namespace(json=False, attacks=False, servers=[])) == 1
    assert "cannot be used" in capsys.readouterr().out


# Observers


@pytest.mark.parametrize("error", [ValueError("no\x1b[2J"), SystemExit(1)])
def test_an_observer_that_raises_is_named_once_and_left_out(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, kinds = [], []

    def broken(event: Event) -> None:
        calls.append(event.kind)
        raise error

    with progress.watching(Plugins(), []) as observers:
        core = [
            (Source("core", "sia-core", "0"), each) for each in [*observers, lambda event: kinds.append(event.kind)]
        ]
        emit = Emitter([(Source("bad", "sia-bad", "1"), broken), *core])
        emit("run.finished")
        emit("run.finished")
    what = shown(f"{type(error).__name__}: {error}")
    assert capsys.readouterr().err == f"sia: the observer of sia-bad 1 is left out from here on: {what}\n"
    assert calls == ["run.finished"]
    assert kinds == ["run.finished", "observer.failed", "run.finished"]


# Progress


class Screen:
    """A display on a terminal of our own."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        terminal = Console(file=self.file, force_terminal=True, width=120, highlight=False)
        self.display = Display(terminal)
        self._emit = Emitter([(Source("core", "sia-core", "0"), self.display), (Source("t", "t", "0"), self._fault)])
        self.faults: list[Event] = []

    def _fault(self, event: Event) -> None:
        if event.kind == "observer.failed":
            self.faults.append(event)

    def tell(self, kind: str, **data: Any) -> str:
        """Emit an event with a key that nobody knows; what the live part of the screen shows then."""
        self._emit(kind, **data, unheard_of=1)
        assert not self.faults
        self.file.seek(0)
        self.file.truncate()
        self.display._bars.refresh()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())


@pytest.fixture
def screen() -> Any:
    screen = Screen()
    yield screen
    screen.display.close()


def started(screen: Screen) -> None:
    sandbox = {"name": "[red]", "lacks": ["x[/b]"]}
    screen.tell("run.started", run="x[/b]", sandbox=sandbox, gate=200, budget={"rollouts": 20000}, generations=8)


def test_a_bar_is_there_when_a_sweep_starts_with_the_time_and_the_budget(screen: Screen) -> None:
    assert "setting up" in screen.tell("nothing.known")
    started(screen)
    shows = screen.tell("rollouts.started", purpose="gate", agent="a", total=200)
    assert "gate   first agent" in shows
    assert "0/200" in shows
    assert "0:00:00" in shows
    assert "first agent · 0 of 20,000 rollouts · 0:00" in shows
    assert "-:--:--" not in shows
    shows = screen.tell("rollouts.progress", purpose="gate", agent="a", done=64, total=200, mean=0.5)
    assert "64/200" in shows
    assert "score 0.500" in shows
    assert "64 of 20,000 rollouts" in shows
    assert re.search(r"about \d+:\d\d left", shows)
    assert "/200" not in screen.tell("rollouts.progress", purpose="gate", agent="a", done=200, total=200)


def test_the_bar_of_a_training_has_its_step_and_its_reward(screen: Screen) -> None:
    started(screen)
    about = {"purpose": "train", "agent": "a", "total": 24576}
    screen.tell("rollouts.started", **about)
    shows = screen.tell("training.step", **about, done=1024, step=2, steps=48, reward=0.25, seconds=3.5)
    line = next(line for line in shows.splitlines() if "train" in line)
    for part in ("first agent", "1024/24576", "step 2/48, reward 0.250", "left"):
        assert part in line


def test_the_time_left_comes_from_the_sweeps_own_batches(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    started(screen)
    screen.tell("rollouts.started", purpose="gate", agent="a", total=192)
    now += 100
    assert "about 3:20 left" in screen.tell("rollouts.progress", purpose="gate", agent="a", done=64, total=192)
    now += 40
    assert "about 2:40 left" in screen.tell("nothing.known")
    now += 1000
    assert "about 0:00 left" in screen.tell("nothing.known")


@pytest.mark.parametrize("name", ["x[/b]", "[red]", "a\nb\x1b[2J"])
def test_bars_have_the_names_of_candidates_and_go_when_a_sweep_was_given_up(screen: Screen, name: str) -> None:
    started(screen)
    gate, why = {"value": 0.2}, f"given up: {name}"
    screen.tell("run.drafted", agent="a", gate=gate, smallest_gain=0.1)
    screen.tell("generation.started", index=0, incumbent="a")
    screen.tell("candidate.started", generation=0, name=name, agent="b")
    shows = screen.tell("rollouts.started", purpose="gate", agent="b", total=200)
    assert shown(" ".join(name.split())) in shows
    screen.tell("rollouts.progress", purpose="gate", agent="b", done=64, total=200, mean=0.0)
    shows = screen.tell("candidate.gated", name=name, outcome="rejected", why=why, agent=None)
    assert "/200" not in shows
    assert "generation 0, at most 8 in all · 64 of 20,000 rollouts" in shows
    assert "sealed report" in screen.tell("seal.started", which="initial", agent="a", why=name)


HARNESS = """import time
def solve(instance, ctx):
    time.sleep(0.02)
    return 1
"""
CATALOGUE = """[[edit]]
name = "x[/b] [red]"
family = "a"
summary = "s[/b]"
[[edit.change]]
op = "write"
path = "harness.py"
text = "def solve(instance, ctx): raise ValueError('[/b] [red]')"
"""


@pytest.mark.real
def test_a_run_on_a_terminal_draws_bars_and_ends_with_its_report(sums: Path, tmp_path: Path) -> None:
    (sums / "agent" / "harness.py").write_text(HARNESS)
    (sums / "agent" / "playbook.toml").write_text(CATALOGUE)
    shutil.copyfile(EXAMPLE / "cases.jsonl", sums / "cases.jsonl")  # progress is reported each 64 rollouts
    argv = [sys.executable, "-m", "sia_cli", *command(sums, tmp_path), "--generations", "1"]
    code, text = on_a_terminal([each for each in argv if each != "--json"])
    assert code == 0, text
    assert "Traceback" not in text
    assert "is left out" not in text
    assert re.search(r"\b[1-9]\d?/100\b", text)
    assert re.search(r"about \d:\d\d left", text)
    assert "rejected x[/b] [red]: smoke run failed" in text
    assert "ValueError: [/b] [red]" in text
    assert "final agent" in text


def on_a_terminal(argv: list[str]) -> tuple[int, str]:
    """Run a program on a terminal of 120 columns; its exit code and all that it wrote, without the escapes."""
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(argv, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    text = b""
    try:
        while part := os.read(ours, 1 << 16):
            text += part
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
        code = process.wait(60)
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())


def test_tables_are_wide_where_there_is_no_terminal() -> None:
    assert console().width == 140
