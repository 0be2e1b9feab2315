"""Four conversations at once, killed at each call: the real SDK against the stand-in server, on the example of sums."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest
from command_runs import SIA, finished
from example_runs import command
from scripted_model import STOP, decided, first_message, learn

from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord
from sia_testing.model_server import Asked, ModelServer, Turn, Use

pytestmark = [pytest.mark.real, pytest.mark.slow]

AMONG = 4
EDITS = (("minus", "-"), ("times", "*"), ("minus", "- 0 -"), ("times", "* 1 *"))
"""The operation that each conversation teaches, in its own words."""


def place(request: Asked) -> tuple[str, int, int]:
    """The stage, the number of the conversation, and how many replies it has had."""
    first = first_message(request)
    count = sum(each["role"] == "assistant" for each in request.body["messages"])
    number = re.search(r"You are number (\d) of", first)
    return first.split(".")[0].split()[1], int(number[1]) - 1 if number else 0, count


def play(request: Asked) -> Turn:
    """A generation in which each edits, checks and decides; one in which all stop."""
    stage, number, step = place(request)
    if stage == "1":
        return Turn(uses=[STOP])
    return Turn(uses=[[learn(*EDITS[number]), Use("check")], [decided(EDITS[number][0], 0.3)]][step])


CALLS = 2 * AMONG + AMONG


def options(server: ModelServer) -> list[str]:
    asks = {"base_url": server.url, "first_wait": 0, "parallel": AMONG}
    settings = [part for name, value in asks.items() for part in ("--improver-set", f"{name}={value}")]
    return ["--improver", "claude", "--candidates", str(AMONG), "--budget", "dollars=40", *settings]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-any")


class Killing:
    """Plays, and kills the run at its call number ``call``. The first of four is answered once all are under way."""

    def __init__(self, call: int) -> None:
        self._call, self._changed = call, threading.Condition()
        self._begun: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, request: Asked) -> Turn:
        stage, number, step = place(request)
        if (stage, step) == ("0", 0):
            with self._changed:
                self._begun.add(number)
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: len(self._begun) == AMONG, 60)
        if self.process and request.number == self._call:
            os.kill(self.process.pid, signal.SIGKILL)
        return play(request)


def tries(folder: Path) -> tuple[Counter[str], set[str]]:
    """How often each call was sent, and those whose reply is recorded."""
    (run,) = (folder / "runs").glob("*/ledger.db")
    with Ledger.read(run.parent) as ledger:
        calls = list(RunRecord(ledger).calls())
    sent, replied = ([call for call, what, _ in calls if what == kind] for kind in ("intent", "reply"))
    return Counter(sent), set(replied)


@pytest.mark.parametrize("call", range(2 * AMONG))
def test_killed_at_a_call_and_resumed_no_reply_is_paid_for_twice_but_those_that_were_pending(
    sums: Path, tmp_path: Path, call: int
) -> None:
    rule = Killing(call)
    with ModelServer(rule) as server:
        argv = [*SIA, *command(sums, tmp_path), *options(server)]
        rule.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert rule.process.wait() == -signal.SIGKILL
        sent, replied = tries(tmp_path)
        report = finished(["resume", "--json", "--runs-dir", str(tmp_path / "runs")])
    pending = set(sent) - replied
    assert 1 <= len(pending) <= AMONG
    after, all_replied = tries(tmp_path)
    assert set(after) == all_replied
    assert {name for name, times in after.items() if times > 1} == pending
    assert len(after) == CALLS
    assert [row["name"] for row in report["generations"]] == [name for name, _ in EDITS]
