"""Runs with a model that makes every error that can be told at once: each costs a reply, and no generation is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from example_runs import smaller
from scripted_model import first_message

from sia_cli import main
from sia_testing.model_server import Asked, ModelServer, Turn, Use

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORDS = Path(__file__).parents[2] / "examples" / "words"
PREDICTION = {"gain": 0.3, "where": "everywhere"}
CHANGE = {"lever": "harness", "name": "repaired", "reason": "it was wrong", "prediction": PREDICTION}
STOP = {"lever": "stop", "reason": "enough"}


def update(**more: Any) -> dict[str, Any]:
    return {"lever": "weights", "algorithm": "ppo", "reason": "it may learn", "prediction": PREDICTION, **more}


def decide(*changes: dict[str, Any]) -> Use:
    return Use("decide", {"changes": list(changes)})


def edit(path: str, old: str, new: str) -> Use:
    return Use("replace_text", {"path": path, "old": old, "new": new})


@dataclass(frozen=True)
class Mistake:
    """A reply that cannot be taken, and what the model is told in return."""

    uses: Sequence[Use]
    why: str


EVERYWHERE = [
    Mistake([Use("divine")], "there is no tool 'divine'"),
    Mistake([Use("decide", '{"changes": [')], "not a JSON object"),
    Mistake([decide()], "decide on a change, or to stop"),
    Mistake([decide(STOP, CHANGE)], "a stop ends the run"),
    Mistake([decide(CHANGE)], "does not differ from its parent"),
    Mistake([decide({**CHANGE, "prediction": {"gain": 0.3}})], "where: Field required"),
]
"""Four of them are different wrong decisions, one after the other."""


class Model:
    """Makes each mistake once, then edits the harness well; in the next generation it stops."""

    def __init__(self, mistakes: Sequence[Mistake], well: Use) -> None:
        self.mistakes = [*EVERYWHERE, *mistakes]
        self._turns = [*(Turn(uses=list(each.uses)) for each in self.mistakes), Turn(uses=[well, decide(CHANGE)])]

    def play(self, request: Asked) -> Turn:
        count = sum(message["role"] == "assistant" for message in request.body["messages"])
        return self._turns[count] if first_message(request).startswith("Generation 0.") else Turn(uses=[decide(STOP)])


def played(model: Model, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The report of a run in which each mistake was told at once, none ended the run, and the change was tried."""
    with ModelServer(model.play) as server:
        asks = ["--improver", "litellm:openai/any", "--improver-set", f"base_url={server.openai_url}"]
        common = ["--generations", "3", "--candidates", "1", "--runs-dir", str(folder), "--json"]
        assert main(["run", *options, *asks, *common]) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    replies = ["\n".join(request.results) for request in server.asked[1:]]
    for mistake, text in zip(model.mistakes, replies, strict=False):
        assert mistake.why in text
    assert len(server.asked) == len(model.mistakes) + 2
    assert (report["status"], report["stopped"]) == ("finished", "enough")
    ((index, name, outcome),) = [(row["index"], row["name"], row["outcome"]) for row in report["generations"]]
    assert (index, name) == (0, "repaired")
    assert outcome in ("promoted", "rejected", "screened")
    return report


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")


CLUES = """
CLUES = {"coal": "black", "night": "black", "ink": "black", "ice": "blue", "sea": "blue", "sky": "blue",
         "blood": "red", "fire": "red", "rose": "red", "frog": "green", "grass": "green", "leaf": "green"}


def solve(instance, ctx):
    return next(CLUES[word] for word in instance.input["text"].split() if word in CLUES)
"""


def test_words_with_both_levers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the weight lever's engine is not installed")
    words = smaller(WORDS, tmp_path / "words", 240)
    mistakes = [
        Mistake([decide(update(config={"lr": 1}))], "ppo does not take these settings: lr: extra inputs"),
        Mistake([decide(update(training={"steps": 0}))], "steps: Input should be greater"),
        Mistake([decide(update(algorithm="magic"))], "no algorithm 'magic'"),
        Mistake([edit("harness.py", "return reply[", "return reply.text["), decide(CHANGE)], "It must run before"),
    ]
    case = ["--harness", str(words / "agent"), "--data", str(words / "cases.jsonl"), "--verifier", "exact"]
    model = Model(mistakes, Use("write_file", {"path": "harness.py", "text": CLUES.lstrip()}))
    report = played(model, tmp_path / "runs", capsys, *case, "--levers", "harness,weights", "--policy", "tiny")
    assert report["sealed"]["final"]["value"] == 1.0


def test_sums_in_words_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sia_reasoning")
    mistakes = [
        Mistake(
            [edit("harness.py", '{"answer": ""}', '{"reply": ""}'), decide(CHANGE)], "None of its answers is valid"
        ),
    ]
    well = edit("harness.py", '{"reply": ""}', '{"answer": "6"}')
    sizes = [part for split in ("search", "gate", "sealed") for part in ("--set", f"{split}=24")]
    played(Model(mistakes, well), tmp_path / "runs", capsys, "--plugin", "reasoning", *sizes)


def test_lawbench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sia_lawbench")
    choice, unknown = "max(scores, key=scores.get)", '"no charge of the list"'
    mistakes = [
        Mistake([edit("harness.py", choice, "best(scores)"), decide(CHANGE)], "name 'best' is not defined"),
        Mistake([edit("harness.py", "best(scores)", unknown), decide(CHANGE)], "None of its answers is valid"),
    ]
    well = edit("harness.py", unknown, "min(scores, key=scores.get)")
    played(Model(mistakes, well), tmp_path / "runs", capsys, "--plugin", "lawbench")


def test_denoising(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sia_denoising")
    from scipy import sparse

    from sia_denoising.generator import Generator

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = Generator(cells=150, genes=200, programs=4, depth=500).draw(0).counts
    sparse.save_npz(tmp_path / "counts.npz", counts)
    evaluates, crashes = "ctx.evaluate(render(plan))", "ctx.evaluate(render(plan)).score"
    returns, nothing = "return render(best)", 'return {"code": "pass", "plan": None}'
    mistakes = [
        Mistake([edit("harness.py", evaluates, crashes), decide(CHANGE)], "has no attribute 'score'"),
        Mistake(
            [edit("harness.py", crashes, evaluates), edit("harness.py", returns, nothing), decide(CHANGE)],
            "None of its answers is valid",
        ),
    ]
    well = edit("harness.py", nothing, f"ctx.log.info('done')\n    {returns}")
    played(
        Model(mistakes, well),
        tmp_path / "runs",
        capsys,
        "--plugin",
        "denoising",
        "--data",
        str(tmp_path / "counts.npz"),
    )
