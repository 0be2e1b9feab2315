"""Both levers on the real LawBench data, pulled by a model: rewritten twice, trained once, stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sia_cli import main
from sia_core.harness import Replace, Write
from sia_core.plugins import Plugins
from sia_testing.model_server import Asked, ModelServer, Turn, Use

pytestmark = [pytest.mark.real, pytest.mark.slow]

LEARNERS = ("ppo", "best-of-n", "grpo")
SHORT = {"steps": 2, "prompts": 64, "group": 4, "first_group": 4, "durable": 1}


class Model:
    """Rewrites as the task's catalogue does, and trains with the first learner that has nothing against it."""

    def __init__(self) -> None:
        catalogue = Plugins.discover().create("task", "lawbench", seed=0).playbook()
        self._edits = {entry.name: entry.change for entry in catalogue.edit}

    def play(self, request: Asked) -> Turn:
        first = request.body["messages"][0]["content"][0]["text"]
        count = sum(message["role"] == "assistant" for message in request.body["messages"])
        generation = int(first.split(".")[0].split()[1])
        plans = [self._rewrite("nearest-neighbours"), self._train(count), self._rewrite("linear-svc")]
        return Turn(uses=plans[generation] if generation < 3 else [_decide({"lever": "stop", "reason": "enough"})])

    def _rewrite(self, name: str) -> list[Use]:
        uses = []
        for change in self._edits[name]:
            if isinstance(change, Write):
                uses.append(Use("write_file", {"path": change.path, "text": change.text}))
            else:
                assert isinstance(change, Replace)
                uses.append(Use("replace_text", {"path": change.path, "old": change.old, "new": change.new}))
        about = {"lever": "harness", "name": name, "reason": "cases of one charge read alike"}
        return [*uses, _decide({**about, "prediction": {"gain": 0.2, "where": "charges with many cases"}})]

    def _train(self, tried: int) -> list[Use]:
        about = {"lever": "weights", "algorithm": LEARNERS[tried], "training": SHORT, "reason": "as the table says"}
        return [_decide({**about, "prediction": {"gain": 0.01, "where": "where the shortlist holds the charge"}})]


def _decide(change: dict[str, Any]) -> Use:
    return Use("decide", {"changes": [change]})


def test_claude_rewrites_twice_trains_once_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-any")
    with ModelServer(Model().play) as server:
        claude = ["--improver", "claude", "--improver-set", f"base_url={server.url}", "--budget", "dollars=5"]
        options = ["--levers", "harness,weights", "--candidates", "1", "--generations", "4", "--seed", "0", "--json"]
        assert main(["run", "--plugin", "lawbench", *claude, *options, "--runs-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["generations"]
    assert [row["lever"] for row in rows] == ["harness", "weights", "harness"]
    assert [row["name"] for row in rows][::2] == ["nearest-neighbours", "linear-svc"]
    assert rows[0]["accepted"]
    assert all(row["gate"] for row in rows[::2])
    assert rows[1]["gate"] or rows[1]["outcome"] == "screened"  # so short an update may change no answer
    assert rows[1]["took"]["steps"] == 2
    assert report["stopped"] == "enough"
    assert report["sealed"]["final"]["value"] > report["sealed"]["initial"]["value"] + 0.2
    assert 0 < report["budget"]["spent"]["dollars"] < 5
