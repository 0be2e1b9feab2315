"""Progress of a run in a log: where there is no terminal, a line says now and then what is under way."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from rich.console import Console

from sia_cli.display import QUIET_SECONDS, Display
from sia_core.hookspecs import Event


class Log:
    """A display that writes to a log, under a clock that stands still."""

    def __init__(self, display: Display, file: io.StringIO) -> None:
        self.display, self._file = display, file
        self.now = 0.0

    def tell(self, kind: str, **data: Any) -> str:
        self.display(Event(kind, data))
        return self._new()

    def beat(self, seconds: float) -> str:
        """Let time pass; the lines that are due then."""
        self.now += seconds
        self.display.beat()
        return self._new()

    def _new(self) -> str:
        text = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return text


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    file = io.StringIO()
    with closing(Display(Console(file=file, highlight=False, width=100))) as display:
        log = Log(display, file)
        monkeypatch.setattr(time, "monotonic", lambda: log.now)
        display._spoke = display._began = 0.0
        yield log


def test_a_log_says_now_and_then_what_is_under_way_how_fast_and_for_how_long(log: Log) -> None:
    log.tell("candidate.started", generation=0, name="calculator", agent="b")
    log.tell("rollouts.started", purpose="search", agent="b", total=96)
    assert log.beat(40) == "  search of candidate 'calculator': 0 of 96 rollouts, 0:40 so far\n"
    log.tell("rollouts.progress", purpose="search", agent="b", done=64, total=96, mean=0.5)
    assert log.beat(24) == ""
    text = "  search of candidate 'calculator': 64 of 96 rollouts, 0.9 a second, about 0:35 left\n"
    assert log.beat(6) == text


def test_each_sweep_that_goes_on_has_a_line(log: Log) -> None:
    log.tell("candidate.started", generation=0, name="one", agent="a")
    log.tell("candidate.started", generation=0, name="two", agent="b")
    for agent in ("a", "b", "c"):
        log.tell("rollouts.started", purpose="gate", agent=agent, total=10)
    lines = log.beat(QUIET_SECONDS).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "  gate of candidate 'one'",
        "  gate of candidate 'two'",
        "  gate of the first agent",
    ]


def test_a_log_says_the_phase_where_nothing_is_rolled_out(log: Log) -> None:
    assert log.beat(QUIET_SECONDS) == "  setting up · 0 rollouts · 0:30\n"


def test_a_line_of_the_run_puts_the_next_one_off(log: Log) -> None:
    log.now = 20.0
    assert "generation 0" in log.tell("generation.started", index=0, incumbent="a")
    assert log.beat(20) == ""
    assert log.beat(10)


def test_rollouts_that_are_solved_count_before_their_batch_is_recorded_and_never_go_back(log: Log) -> None:
    about = {"purpose": "gate", "agent": "a", "total": 200}
    log.tell("rollouts.started", **about)
    log.tell("rollouts.solving", **about, done=100)
    log.tell("rollouts.progress", **about, done=64, mean=0.5)
    assert "100 of 200 rollouts" in log.beat(QUIET_SECONDS)
    log.tell("rollouts.solving", **about, done=200)
    log.tell("rollouts.progress", **about, done=200, mean=0.5)
    assert log.beat(QUIET_SECONDS).startswith("  setting up · 200 rollouts")


def test_a_training_says_its_steps(log: Log) -> None:
    about = {"purpose": "train", "agent": "a", "total": 96}
    log.tell("rollouts.started", **about)
    log.now = 12.0
    log.tell("training.step", **about, done=32, step=1, steps=3, reward=0.25, seconds=11.6)
    text = "  training of the first agent: step 1 of 3, mean reward 0.250, 11.6 s a step, about 1:00 left\n"
    assert log.beat(18) == text


def test_a_candidates_name_cannot_steer_the_terminal_that_a_log_is_read_on(log: Log) -> None:
    log.tell("candidate.started", generation=0, name="a\nb\x1b[2J", agent="b")
    log.tell("rollouts.started", purpose="gate", agent="b", total=10)
    text = log.beat(QUIET_SECONDS)
    assert "\x1b" not in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_stops_no_display(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, stream, None)
    with closing(Display()) as display:
        display(Event("generation.started", {"index": 0, "incumbent": "a"}))


def test_a_verdict_in_a_log_ends_its_interval_where_the_metric_does(log: Log) -> None:
    metric = {"name": "error", "direction": "minimize", "bounds": (0.0, 1.0)}
    about = {"sandbox": {"name": "process", "lacks": []}, "gate": 21, "budget": {}, "generations": 1}
    log.tell("run.started", run="r", metric=metric, **about)
    why = "better: gain +0.9524 [+0.8590, +1.0457] over 21 instances"
    gate = {"delta": -0.9524, "ci95": [-1.0457, -0.8590]}
    text = log.tell("candidate.gated", name="c", outcome="promoted", why=why, gate=gate)
    assert "gain +0.9524 [+0.8590, +1.0000] over 21 instances" in text
