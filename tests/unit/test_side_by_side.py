"""Several conversations at once: what each is told, what is recorded, what a slow or failing one costs the others."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from played_model import STOP, Killed, Laboratory, World, rewrite, said, skill, use

from sia_core.errors import ModelError
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Plan
from sia_core.run.record import RunRecord, proposers
from sia_core.types import Job
from sia_llm import side_by_side
from sia_llm.models import Ask, CallFailed, Prices, Reply, Usage
from sia_llm.recorded import recording
from sia_testing.fakes import harness

pytestmark = pytest.mark.thorough

AMONG = 4
SHARES = (0.5, 0.9, 0.6, 0.7)
NUMBER = re.compile(r"You are number (\d) of")


def place(request: Ask) -> tuple[str, int, int]:
    """Where a request stands: generation, number of its conversation, replies so far."""
    first = request.messages[0]["text"]
    step = sum(message["role"] == "assistant" for message in request.messages)
    number = NUMBER.search(first)
    return first.partition(".")[0].split()[1], int(number[1]) - 1 if number else 0, step


Rule = Callable[[str, int, int], Reply]


def usual(stage: str, number: int, step: int) -> Reply:
    """A generation in which each changes the skill otherwise, in two replies, and one that stops."""
    if stage == "1":
        return said(STOP)
    return said(skill(SHARES[number])) if step == 0 else said(rewrite(f"to {SHARES[number]}"))


class Ruled:
    """A provider that answers by rule, from several threads."""

    name = "ruled"

    def __init__(self, rule: Rule = usual) -> None:
        self.rule, self.asked, self._mutex = rule, [], threading.Lock()  # type: ignore[var-annotated]

    def complete(self, request: Ask) -> Reply:
        where = place(request)
        with self._mutex:
            self.asked.append((where, request))
        return self.rule(*where)

    def prices(self, model: str) -> Prices | None:
        return Prices(3.0, 15.0, 0.3, 3.75)

    @property
    def places(self) -> Counter[tuple[str, int, int]]:
        return Counter(where for where, _ in self.asked)

    def first_of(self, number: int) -> str:
        return next(ask.messages[0]["text"] for where, ask in self.asked if where[:2] == ("0", number))


def world(folder: Path, rule: Rule = usual, **more: Any) -> World:
    result = World(folder, plan=Plan(candidates=AMONG), parallel=str(AMONG), **more)
    result.provider = Ruled(rule)  # type: ignore[assignment]
    return result


def recorded(folder: Path) -> str:
    with Ledger.read(folder) as ledger:
        return recording(ledger)


def same(report: dict[str, Any]) -> dict[str, Any]:
    return {**report, "run": "", "budget": "", "models": ""}


NAMES = [f"to {share}" for share in SHARES]


def test_four_conversations_are_under_way_at_once_and_each_makes_a_candidate(tmp_path: Path) -> None:
    meeting = threading.Barrier(AMONG, timeout=60)

    def rule(stage: str, number: int, step: int) -> Reply:
        if (stage, step) == ("0", 0):
            meeting.wait()
        return usual(stage, number, step)

    report = world(tmp_path, rule).run()
    assert [row["name"] for row in report["generations"]] == NAMES
    assert report["agent"]["harness"] == harness(0.9).digest
    assert report["stopped"] == "enough"
    assert report["budget"]["spent"]["dollars"] == pytest.approx((2 * AMONG + AMONG) * (100 * 3 + 10 * 15) / 1e6)


def test_each_is_told_which_parents_the_others_have_and_not_what_they_think(tmp_path: Path) -> None:
    run = world(tmp_path)
    run.run()
    first = harness(0.2).digest[:12]
    text = run.provider.first_of(1)  # type: ignore[attr-defined]
    assert "You are number 2 of 4" in text
    assert f"number 1 from agent {first}; number 3 from agent {first}; number 4 from agent {first}." in text
    assert "to 0.5" not in text


def test_fewer_candidates_than_conversations_begin_no_idle_ones_and_more_are_dealt_out(tmp_path: Path) -> None:
    def rule(stage: str, number: int, step: int) -> Reply:
        if stage == "0" and number == 0 and step == 1:
            aside = use("set_aside", name="one more", reason="why not", prediction={"gain": 0.1, "where": "all"})
            return said(aside, skill(0.8))
        return usual(stage, number, 1 if step == 2 else step)

    run = World(tmp_path, plan=Plan(candidates=3), parallel="2")
    run.provider = Ruled(rule)  # type: ignore[assignment]
    assert [row["name"] for row in run.run()["generations"]] == ["one more", "to 0.5", "to 0.9"]
    assert {number for stage, number, _ in run.provider.places if stage == "0"} == {0, 1}  # type: ignore[attr-defined]


def one_by_one(order: Sequence[int]) -> Rule:
    """The replies of a conversation arrive once those of the one before it in the order have."""
    ended = {number: threading.Event() for number in order}

    def rule(stage: str, number: int, step: int) -> Reply:
        if stage == "0":
            before = order[: order.index(number)]
            assert all(ended[each].wait(60) for each in before)
            if step == 1:
                ended[number].set()
        return usual(stage, number, step)

    return rule


def test_neither_report_nor_recording_depends_on_which_reply_arrived_first(tmp_path: Path) -> None:
    reports = [same(world(tmp_path / name, one_by_one(order)).run()) for name, order in ORDERS.items()]
    assert reports[0] == reports[1]
    assert recorded(tmp_path / "in order") == recorded(tmp_path / "mixed")
    (tmp_path / "recorded.jsonl").write_text(recorded(tmp_path / "mixed"))
    again = world(tmp_path / "again", replay=str(tmp_path / "recorded.jsonl"))
    assert same(again.run()) == reports[0]
    assert not again.provider.asked


ORDERS = {"in order": range(AMONG), "mixed": (3, 1, 0, 2)}


@pytest.mark.parametrize("at", [(number, step) for number in range(AMONG) for step in range(2)])
def test_killed_at_any_call_and_resumed_only_what_was_pending_is_asked_again(
    tmp_path: Path, at: tuple[int, int]
) -> None:
    whole = world(tmp_path / "whole").run()

    def killed(stage: str, number: int, step: int) -> Reply:
        if (stage, number, step) == ("0", *at):
            raise Killed
        return usual(stage, number, step)

    first, second = world(tmp_path / "killed", killed), world(tmp_path / "killed")
    with pytest.raises(Killed):
        first.run()
    report = second.run()
    counts = first.provider.places + second.provider.places  # type: ignore[attr-defined]
    assert {where for where, times in counts.items() if times > 1} == {("0", *at)}
    assert same(report) == same(whole)
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    for kind in ("rollouts", "verifications"):
        assert report["budget"]["spent"][kind] == whole["budget"]["spent"][kind]


def failing(*numbers: int, why: Exception) -> Rule:
    def rule(stage: str, number: int, step: int) -> Reply:
        if stage == "0" and number in numbers and step == 1:
            raise why
        return usual(stage, number, step)

    return rule


def test_one_whose_provider_fails_does_not_hold_the_others_back(tmp_path: Path) -> None:
    run = world(tmp_path, failing(2, why=CallFailed("401 no such model", retry=False)))
    assert [row["name"] for row in run.run()["generations"]] == [NAMES[0], NAMES[1], NAMES[3]]
    assert any("conversation 3 of 4: ruled gave no answer: 401" in notice for notice in run.notices)


def test_where_all_fail_the_run_stops_and_a_resumed_one_asks_for_what_is_missing(tmp_path: Path) -> None:
    run = world(tmp_path, failing(*range(AMONG), why=CallFailed("401 bad key", retry=False)))
    with pytest.raises(ModelError, match="401 bad key"):
        run.run()
    again = world(tmp_path)
    assert [row["name"] for row in again.run()["generations"]] == NAMES
    assert {step for stage, _, step in again.provider.places if stage == "0"} == {1}  # type: ignore[attr-defined]


class Slow:
    """The third conversation's second reply does not arrive before ``release``; it is not waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release, self.begun = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        monkeypatch.setattr(side_by_side, "wait", self.wait)

    def wait(self, futures: Sequence[Any], seconds: float) -> None:
        assert seconds == 3600
        wait([each for at, each in enumerate(futures) if at != 2 or self.release.is_set()])
        assert self.release.is_set() or self.begun.wait(60)

    def rule(self, stage: str, number: int, step: int) -> Reply:
        if (stage, number, step) == ("0", 2, 1):
            self.thread = threading.current_thread()
            self.begun.set()
            assert self.release.wait(60)
        if stage == "1" and self.thread:
            self.release.set()
            self.thread.join()
        return usual(stage, number, step)


def test_a_slow_one_is_gone_on_without_its_pending_call_is_booked_and_its_late_reply_used_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world(tmp_path / "slow", Slow(monkeypatch).rule)
    report = run.run()
    names = [NAMES[0], NAMES[1], NAMES[3]]
    assert [row["name"] for row in report["generations"]] == names
    assert any("conversation 3 of 4: it took longer" in notice for notice in run.notices)
    replies = (2 * AMONG - 1 + AMONG) * (100 * 3 + 10 * 15) / 1e6
    assert report["budget"]["spent"]["dollars"] > replies + 16_000 * 15 / 1e6
    (tmp_path / "recorded.jsonl").write_text(recorded(tmp_path / "slow"))
    again = world(tmp_path / "again", replay=str(tmp_path / "recorded.jsonl"))
    assert [row["name"] for row in again.run()["generations"]] == names


def test_a_run_that_is_killed_after_it_went_on_without_one_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(side_by_side, "without_repeats", lambda _: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            world(tmp_path, slow.rule).run()
    slow.release.set()
    assert slow.thread
    slow.thread.join()
    again = world(tmp_path)
    assert [row["name"] for row in again.run()["generations"]] == [NAMES[0], NAMES[1], NAMES[3]]
    assert {stage for stage, *_ in again.provider.places} == {"1"}  # type: ignore[attr-defined]


def test_a_tool_that_was_under_way_when_its_conversation_was_ended_is_booked_once_also_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Future[Any]()

    class Stuck(Laboratory):
        begun: threading.Event

        def submit(self, job: Job) -> Future[Any]:
            if job.function.endswith(":run_code"):
                self.begun.set()
                return late
            return super().submit(job)

    def rule(stage: str, number: int, step: int) -> Reply:
        tries = (stage, number, step) == ("0", 2, 0)
        return said(use("run", code="print(1)")) if tries else usual(stage, number, step)

    def stuck(name: str, patch: pytest.MonkeyPatch) -> World:
        run, generations = world(tmp_path / name, rule), iter(range(9))
        run.backend = backend = Stuck()
        backend.begun = threading.Event()

        def others(futures: Sequence[Any], _: float) -> None:
            if next(generations):
                wait(futures)
                return
            wait([each for at, each in enumerate(futures) if at != 2])
            assert backend.begun.wait(60)

        patch.setattr(side_by_side, "wait", others)
        return run

    with monkeypatch.context() as patch:
        spent = stuck("whole", patch).run()["budget"]["spent"]
        patch.setattr(side_by_side, "without_repeats", lambda _: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stuck("killed", patch).run()
    late.set_exception(ModelError("too late"))
    again = world(tmp_path / "killed", rule)
    now = again.run()["budget"]["spent"]
    assert {**now, "seconds": 0.0} == pytest.approx({**spent, "seconds": 0.0})
    assert again.backend.ran == ["print(1)"]


def test_the_dollars_that_are_left_are_shared_out_and_one_that_spends_its_share_ends_alone(tmp_path: Path) -> None:
    def rule(stage: str, number: int, step: int) -> Reply:
        if stage == "0" and number == 3 and step < 9:
            return replace(said(use("list_files")), usage=Usage(100, 16_000))
        return usual(stage, number, step)

    run = world(tmp_path, rule, budget="dollars=1.3")
    assert [row["name"] for row in run.run()["generations"]] == NAMES[:3]
    assert any("conversation 4 of 4: no call of a-model fits into its share" in notice for notice in run.notices)


def test_experiments_and_checks_of_all_of_them_together_stay_within_the_rollouts_of_the_run(tmp_path: Path) -> None:
    def rule(stage: str, number: int, step: int) -> Reply:
        if step:
            return said(STOP)
        runs = [use("run", code=f"print({number}, {at})") for at in range(30)]
        return said(*runs, *[skill(SHARES[number]), *[use("check", which="random", count=40)] * 12])

    run = world(tmp_path, rule, budget="rollouts=900")
    report = run.run()
    ran = len(run.backend.ran)
    checked = sum(len(sweep.instances) for sweep in run.backend.sweeps if sweep.purpose == "check")
    assert 0 < ran < AMONG * 30
    assert report["budget"]["spent"]["rollouts"] <= 900
    assert ran + checked <= 900 - (2 + 200 + 200 + 2 * 200)
    assert report["status"] == "finished"
    text = "".join(row["text"] for where, ask in run.provider.asked if where[2] for row in ask.messages[-1]["results"])  # type: ignore[attr-defined]
    assert "rollouts" in text
    assert "experiments were run" not in text


def test_a_harness_that_two_of_them_check_is_run_once(tmp_path: Path) -> None:
    def rule(stage: str, number: int, step: int) -> Reply:
        return usual(stage, 1 if stage == "0" else number, step)

    run = world(tmp_path, rule)
    report = run.run()
    assert [row["outcome"] for row in report["generations"]] == ["promoted", "refused", "refused", "refused"]
    assert sum(sweep.purpose == "check" and sweep.harness == harness(0.9).digest for sweep in run.backend.sweeps) == 1


def test_several_run_the_same_code_at_the_same_time(tmp_path: Path) -> None:
    def rule(stage: str, number: int, step: int) -> Reply:
        if stage != "0":
            return usual(stage, number, step)
        return said(use("run", code="print(1)")) if step == 0 else usual(stage, number, step - 1)

    together = threading.Barrier(AMONG)

    class Slow(Laboratory):
        def submit(self, job: Job) -> Future[Any]:
            if job.function.endswith(":run_code"):
                together.wait(10)
            return super().submit(job)

    run = world(tmp_path, rule)
    run.backend = Slow()
    assert [row["name"] for row in run.run()["generations"]] == NAMES
    assert run.backend.ran == ["print(1)"] * AMONG
    again = world(tmp_path, rule)
    again.run()
    assert again.backend.ran == []


# Which model each is with.


def proposed(folder: Path, generation: int = 0) -> dict[str, list[str]]:
    with Ledger.read(folder) as ledger:
        row: dict[str, list[str]] = RunRecord(ledger).get(proposers(generation))
    return row


@pytest.mark.parametrize("choose", ["weights", "ucb"])
def test_conversations_are_with_the_chosen_models_which_are_the_same_when_resumed_and_replayed(
    tmp_path: Path, choose: str
) -> None:
    more: dict[str, Any] = {"models": "dear,cheap", "choose": choose}
    whole = world(tmp_path / "whole", **more)
    report = whole.run()
    assert {each["model"] for each in report["models"]} == {"dear", "cheap"}
    row = proposed(tmp_path / "whole")
    assert row["asked"] == row["made"]
    assert len(row["made"]) == AMONG
    assert len(proposed(tmp_path / "whole", 1)["asked"]) == AMONG

    def killed(stage: str, number: int, step: int) -> Reply:
        if (stage, number) == ("1", 2):
            raise Killed
        return usual(stage, number, step)

    first = world(tmp_path / "killed", killed, **more)
    with pytest.raises(Killed):
        first.run()
    resumed = world(tmp_path / "killed", **more)
    assert {**same(resumed.run()), "models": ""} == {**same(report), "models": ""}
    counts = first.provider.places + resumed.provider.places  # type: ignore[attr-defined]
    assert {where for where, times in counts.items() if times > 1} == {("1", 2, 0)}
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    (tmp_path / "recorded.jsonl").write_text(recorded(tmp_path / "whole"))
    again = world(tmp_path / "again", replay=str(tmp_path / "recorded.jsonl"), **more)
    assert {**same(again.run()), "models": ""} == {**same(report), "models": ""}
