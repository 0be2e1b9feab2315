"""Whole runs whose improver asks a model: the real SDKs against the stand-in server, on the example of sums."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_runs import check_killed_at_calls, finished
from example_runs import EXAMPLE, command
from record_runs import PRICES, RECORDED
from scripted_model import SCRIPT, STOP, WORDS, play

from sia_cli import main
from sia_testing.model_server import Asked, Fault, ModelServer, Turn, Use

pytestmark = pytest.mark.real

KEY = "sk-a-key-that-is-planted"
PASSING = [
    Fault(429, retry_after=0),
    Fault(529),
    Fault(500),
    Fault(cut_after=1),
    Fault(cut_after=4),
    Fault(cut_after=0),
]


def improver(kind: str, server: ModelServer) -> list[str]:
    """The options that have a run ask the server."""
    if kind == "claude":
        return ["--improver", "claude", "--improver-set", f"base_url={server.url}", "--improver-set", "first_wait=0"]
    return ["--improver", "litellm:openai/any", "--improver-set", f"base_url={server.openai_url}", *PRICES]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)


def faulty(asked_before: Counter[str]) -> Callable[[Asked], Turn]:
    """Whatever is asked for the first time meets the next fault; the second time it is answered."""

    def rule(request: Asked) -> Turn:
        asked_before[request.text] += 1
        if request.number == 0:
            return Turn(fault=Fault(401, message=f"{KEY} is not a key that I know"))
        first = asked_before[request.text] == 1
        return Turn("cut " * 40, fault=PASSING[len(asked_before) % len(PASSING)]) if first else play(request)

    return rule


def test_a_run_through_every_fault_is_stopped_resumed_and_ends_well_and_no_key_is_left_anywhere(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--runs-dir", str(tmp_path / "runs")]
    with ModelServer(faulty(Counter())) as server:
        options = [*improver("claude", server), "--budget", "dollars=20"]
        assert main([*command(sums, tmp_path), *options]) == 1
        stopped = capsys.readouterr()
        assert main(["resume", "--json", *where]) == 0
        resumed = capsys.readouterr()
    report = json.loads(resumed.out)
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("minus", True), ("times", True)]
    assert report["sealed"]["final"]["value"] == 1.0
    assert 0 < report["budget"]["spent"]["dollars"] < 20
    assert "[key] is not a key that I know" in stopped.err
    assert "sia resume" in stopped.err
    assert "trying again" in resumed.err
    assert main(["export", report["run"], str(tmp_path / "exported"), *where]) == 0
    printed = capsys.readouterr()
    texts = [stopped.out, stopped.err, resumed.out, resumed.err, printed.out, printed.err]
    texts += [request.text for request in server.asked]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not any(KEY in text for text in texts)
    assert not any(KEY.encode() in content for content in files)
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "calls"), [("claude", range(len(SCRIPT))), ("litellm", (0, 3, 6))])
def test_killed_at_each_call_and_resumed_the_report_is_the_same_and_one_call_at_most_is_made_twice(
    sums: Path, tmp_path: Path, kind: str, calls: Any
) -> None:
    check_killed_at_calls(calls, play, len(SCRIPT), sums, tmp_path, lambda server: improver(kind, server))


def judged(request: Asked) -> Turn:
    """A model that confirms whatever another proposes, beside the one of the script."""
    if "verdict" in json.dumps(request.body["tools"]):
        return Turn(uses=[Use("verdict", {"verdict": "confirm", "why": "It does what it says."})])
    return play(request)


@pytest.mark.slow
def test_killed_while_a_stronger_model_decides_and_resumed_the_report_is_the_same(sums: Path, tmp_path: Path) -> None:
    calls, verdicts = len(SCRIPT) + 3, (3, 7)
    check_killed_at_calls(
        verdicts,
        judged,
        calls,
        sums,
        tmp_path,
        lambda server: [*improver("claude", server), "--improver-set", "decider=claude-opus-4-5"],
    )


ASKS = """
def solve(instance, ctx):
    reply = ctx.model([{"role": "user", "content": instance.input["text"]}])
    return int(reply["choices"][0]["message"]["content"])
"""


def _adds(request: Asked) -> Turn:
    """A policy that can add, and an improver that leaves the agent alone."""
    if request.body.get("tools"):
        return Turn(uses=[STOP])
    left, operation, right = request.body["messages"][-1]["content"].split()
    return Turn(str(WORDS.index(left) + WORDS.index(right)) if operation == "plus" else "0")


@pytest.mark.slow
def test_a_policy_on_a_server_of_ones_own_is_asked_once_a_rollout_and_goes_along_with_the_exported_agent(
    sums: Path, tmp_path: Path
) -> None:
    (sums / "agent" / "harness.py").write_text(ASKS)
    with ModelServer(_adds) as server:
        policy = ["--policy", "openai/adds", "--engine", "litellm", "--engine-set", f"base_url={server.openai_url}"]
        argv = [*command(sums, tmp_path), *policy, *improver("litellm", server), "--budget", "dollars=5"]
        report = finished(argv)
        calls = [request for request in server.asked if not request.body.get("tools")]
        assert len(server.asked) - len(calls) == 1
        assert 0.2 < report["sealed"]["final"]["value"] < 0.5
        assert report["budget"]["spent"]["tokens"] > 0
        assert len(calls) == report["budget"]["spent"]["rollouts"]
        exported = tmp_path / "exported"
        assert main(["export", report["run"], str(exported), "--runs-dir", str(tmp_path / "runs")]) == 0
        lines = json.dumps({"text": "two plus three"}) + "\n"
        result = subprocess.run(
            [sys.executable, str(exported / "run.py")], input=lines, capture_output=True, text=True, check=False
        )
        assert json.loads(result.stdout) == {"answer": 5}, result.stderr


@pytest.mark.parametrize(("name", "model"), [("messages", "claude"), ("chat-completions", "litellm:openai/any")])
def test_a_recorded_run_goes_the_same_way_without_key_and_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    model: str,
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = ["--improver", model, *PRICES, "--improver-set", f"replay={RECORDED / name}.jsonl"]
    assert main([*command(EXAMPLE, tmp_path), *replay]) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["accepted"]) for row in report["generations"]] == [("minus", True), ("times", True)]
    assert report["stopped"] == "it knows every operation"
    assert 0 < report["budget"]["spent"]["dollars"] < 1
    assert main(["replay", report["run"], "--runs-dir", str(tmp_path / "runs")]) == 0, capsys.readouterr().out
