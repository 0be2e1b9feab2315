"""How rollouts ended: what a report, a run and ``sia show --failures`` say of answers that do not count."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sia_cli import main
from sia_cli.display import Display
from sia_cli.figures import ended
from sia_cli.report_text import outcome_lines
from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_core.run.intervals import summary
from sia_core.run.ledger import Ledger
from sia_core.run.plan import Plan
from sia_core.run.record import Batch
from sia_core.run.start import Config, fingerprint, task_of
from sia_core.run.trees import Trees
from sia_core.run.trust import remember
from sia_core.types import OfferRef, Task
from sia_reading.outcomes import best_reward, failure_of, outcomes, right_answers
from sia_reading.report import build

DEEP = "[" * 5000 + "]" * 5000
STEERS = "\x1b[2J[bold]"


def rows(*ends: tuple[str, str | None, str], times: int = 1) -> list[dict[str, Any]]:
    return [{"outcome": outcome, "answer": answer, "message": message} for outcome, answer, message in ends * times]


CRASH = ("crash", None, "ValueError: 'x' is not in list")
NULL = ("ok", "null", "")
GOOD = ("ok", "5", "")


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        (rows(GOOD, times=3), "all 3 gave an answer"),
        (rows(*[CRASH] * 2, *[GOOD] * 8), "2 of 10 crashed: ValueError: 'x' is not in list"),
        (rows(NULL, times=4), "all answers were null"),
        (rows(NULL, GOOD, CRASH), "1 of 3 crashed: ValueError: 'x' is not in list; 1 of 3 answers were null"),
        (rows(("timeout", None, "")), "all 1 timed out"),
        (rows(("odd", None, "a\nb"), GOOD), "1 of 2 ended as odd: a"),
    ],
)
def test_a_line_says_how_rollouts_ended(batch: list[dict[str, Any]], line: str) -> None:
    assert ended(summary(batch)) == line


def test_a_report_says_it_of_the_first_and_the_final_agent_and_quotes_no_sealed_rollout() -> None:
    batches = [
        Batch("search", "a", rows(NULL, times=2)),
        Batch("smoke", "a", rows(CRASH)),
        Batch("sealed", "b", rows(("crash", None, "a sealed question"))),
        Batch("gate", "b", rows(GOOD)),
    ]
    by_agent = outcomes(batches, {"initial": "a", "final": "b"})
    assert [line.plain for line in outcome_lines(by_agent)] == [
        "Outcomes, first agent: all answers were null.",
        "Outcomes, final agent: 1 of 2 crashed.",
    ]
    assert by_agent["final"]["failed"] == [{"outcome": "crash", "count": 1, "example": ""}]


def test_one_line_is_enough_where_the_first_agent_is_the_final_one() -> None:
    by_agent = outcomes([Batch("gate", "a", rows(GOOD))], {"initial": "a", "final": "a"})
    assert [line.plain for line in outcome_lines(by_agent)] == [
        "Outcomes, first and final agent: all 1 gave an answer."
    ]
    assert outcome_lines(outcomes([], {"initial": "a", "final": "a"})) == []


def test_a_message_of_an_agent_steers_no_terminal() -> None:
    by_agent = outcomes([Batch("gate", "a", rows(("crash", None, STEERS)))], {"initial": "a"})
    (line,) = outcome_lines(by_agent)
    assert r"\x1b[2J[bold]" in line.plain


@pytest.mark.parametrize(
    ("batch", "warning"),
    [
        (rows(NULL, times=4), "no answer of the first agent says anything: all answers were null"),
        (rows(CRASH, times=4), "no answer of the first agent says anything: all 4 crashed: ValueError"),
        (rows(CRASH, NULL), "no answer of the first agent says anything: 1 of 2 crashed"),
        (rows(CRASH, NULL, GOOD), ""),
    ],
)
def test_a_run_warns_at_once_where_no_answer_of_the_first_agent_says_anything(
    batch: list[dict[str, Any]], warning: str
) -> None:
    file = StringIO()
    with closing(Display(Console(file=file, width=200, highlight=False))) as display:
        gains = {"smallest_gain": 0.1}
        display(Event("run.drafted", {"agent": "a", "gate": {"value": 0.0}, "outcomes": summary(batch), **gains}))
    assert ("warning: " in file.getvalue()) == bool(warning)
    assert warning in file.getvalue()


@pytest.mark.parametrize(
    ("outcome", "reward", "failure"),
    [
        ("ok", 1.0, None),
        ("ok", 0.5, "wrong"),
        ("crash", 0.0, "crashed"),
        ("timeout", 0.0, "crashed"),
        ("invalid-answer", 0.0, "invalid"),
        ("not-json", 0.0, "invalid"),
    ],
)
def test_a_failure_is_wrong_crashed_or_invalid(outcome: str, reward: float, failure: str | None) -> None:
    assert failure_of(outcome, reward, 1.0) == failure


def test_the_best_reward_follows_from_the_bounds_or_else_from_the_rewards() -> None:
    assert best_reward({"bounds": [0.0, 2.0]}, [1.0]) == 2.0
    assert best_reward({"bounds": [3.0, 9.0], "direction": "minimize"}, [-5.0]) == -3.0
    assert best_reward({"bounds": None}, [1.0, 4.0]) == 4.0


class Story:
    """A run on cases of the user, as its ledger would hold it."""

    def __init__(self, folder: Path) -> None:
        agent = folder / "agent"
        agent.mkdir()
        (agent / "harness.py").write_text("def solve(instance, ctx): return 1\n")
        splits = [("search", 6), ("gate", 2), ("sealed", 2), ("public", 2)]
        cases = [
            {"input": f"{split} {n}", "answer": f"{split}-secret" if split != "search" else ["cat", "dog"][n % 2]}
            | {"split": split}
            for split, count in splits
            for n in range(count)
        ]
        (folder / "cases.jsonl").write_text("".join(json.dumps(each) + "\n" for each in cases))
        settings = {"data": str(folder / "cases.jsonl"), "harness": str(agent)}
        config = Config(OfferRef("cases", settings), Plan())
        self.task: Task = task_of(config, Plugins.discover())
        self.folder = folder / "runs" / "agent-1"
        self.folder.parent.mkdir()
        with Ledger.create(self.folder) as ledger:
            tree = Trees(self.folder).put(HarnessTree.from_folder(agent))
            about = {"task": "agent", "kind": "solve", "metric": asdict(self.task.metric), "version": "0"}
            started = {"config": asdict(config), **about, "fingerprint": fingerprint(self.task)}
            started = json.loads(json.dumps(started))
            remember(started)
            ledger.record("run", started)
            ledger.record("draft", tree)
            for split in ("search", "gate"):
                rollouts = [self._rollout(each.id, place) for place, each in enumerate(self.task.instances(split))]
                batch = {"rollouts": [each.to_json() for each in rollouts], "given_up": ""}
                ledger.record(f"rollouts/{split}/{tree[:12]}/0000", batch)

    @staticmethod
    def _rollout(instance: str, place: int) -> Rollout:
        """One is right, one crashes, one is invalid, the others are wrong."""
        match place:
            case 0:
                return Rollout(instance, "ok", 1.0, answer='"cat"')
            case 1:
                return Rollout(instance, "crash", 0.0, message=f"ValueError: {STEERS}")
            case 2:
                return Rollout(instance, "invalid-answer", 0.0, answer=DEEP, message="no text")
        return Rollout(instance, "ok", 0.0, answer='"bird"', feedback="look again")


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Story(tmp_path)


def show(story: Story, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["show", str(story.folder), *arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_failures_are_shown_with_input_expected_answer_and_what_was_said(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    text = show(story, capsys, "--failures")
    assert "6 rollouts on search; failures: 1 crashed, 1 invalid, 3 wrong" in text
    for line in ("input     search ", "expected  dog", "answer    bird", "feedback  look again", "message   no text"):
        assert f"  {line}" in text
    assert "crashed (crash)" in text
    assert r"ValueError: \x1b[2J[bold]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("kind", "count"), [("wrong", 3), ("crashed", 1), ("invalid", 1), ("all", 5)])
def test_failures_of_one_kind_can_be_asked_for(
    kind: str, count: int, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = json.loads(show(story, capsys, "--failures", kind, "--json"))["failures"]
    assert len(failures) == count
    assert kind == "all" or {each["failure"] for each in failures} == {kind}


def test_an_answer_that_is_nested_too_deeply_is_shown_as_its_text(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    (failure,) = json.loads(show(story, capsys, "--failures", "invalid", "--json"))["failures"]
    assert failure["answer"] == DEEP
    assert "answer    [[[[" in show(story, capsys, "--failures", "invalid")


def test_mistakes_are_counted_and_scores_are_by_class(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(show(story, capsys, "--failures", "--json"))
    assert sum(each["count"] for each in report["confusions"]) == 3
    assert {each["answer"] for each in report["confusions"]} == {"bird"}
    assert {each["expected"]: each["cases"] for each in report["classes"]} == {"cat": 3, "dog": 3}
    text = show(story, capsys, "--failures")
    assert "Most frequent mistakes" in text
    assert "By right answer" in text


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_of_the_gate_answers_are_shown_and_right_answers_never(
    form: tuple[str, ...], story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    text = show(story, capsys, "--failures", "--split", "gate", *form)
    assert "gate " in text
    assert "secret" not in text


def test_right_answers_are_those_of_public_and_search_alone(story: Story) -> None:
    assert len(right_answers(story.task, "public")) == 2
    assert len(right_answers(story.task, "search")) == 6
    assert right_answers(story.task, "gate") == right_answers(story.task, "sealed") == {}


def test_without_trust_failures_of_somebody_elses_run_come_without_inputs(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    text = show(story, capsys, "--failures")
    assert "Inputs and right answers are left out" in text
    assert "answer    bird" in text
    assert "  expected" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--failures", "--agent", "0.7"], "no agent '0.7' was rolled out on search in agent-1; there are: first"),
        (["--agent", "first"], "give --failures too"),
    ],
)
def test_what_cannot_be_shown_is_the_users_mistake_and_says_what_there_is(
    arguments: list[str], message: str, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in show(story, capsys, *arguments, code=2)


def test_the_report_and_show_say_how_rollouts_ended(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.read(story.folder) as ledger:
        first = build(ledger)["outcomes"]["initial"]
    assert (first["rollouts"], first["null"]) == (8, 0)
    line = "Outcomes, first and final agent: 2 of 8 crashed: ValueError"
    assert line in show(story, capsys)
    assert main(["report", str(story.folder)]) == 0
    assert line in capsys.readouterr().out
