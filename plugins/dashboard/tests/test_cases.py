"""Two runs case by case: who is right on which, and nothing of the sealed split."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from told_runs import LabelledTask, Story, Tell

from sia_core.types import Instance, Split
from sia_dashboard import cases, records

HOSTILE = "\"><script>document.title='owned'</script>{{7*7}}\u202e"
ADDRESS = "/compare?run=fake-1&run=fake-2"
BOUNDS = {"bounds": [0.0, 1.0]}


def text_of(page: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def begun(tell: Tell, name: str, say: str = "words", metric: dict[str, object] | None = None) -> Story:
    """A run whose first agent is right on case 1 of 4; it crashes on case 0."""
    story = tell(name, say)
    story.metric = BOUNDS if metric is None else metric
    return story.begins()


def test_the_cases_that_one_run_gets_and_the_other_does_not_are_listed(tell: Tell, client: TestClient) -> None:
    begun(tell, "fake-1").gates()  # its agent is right on case 3, too
    second = begun(tell, "fake-2")
    page = client.get(ADDRESS).text
    text = text_of(page)
    assert "answered 4 cases of search and gate" in text
    assert "Both are right on 1, only fake-1 on 1, only fake-2 on 0, neither on 2." in text
    assert "Only fake-1 is right: 1 case" in text
    assert "Only fake-2 is right" not in text
    assert "case-3-words right" in text
    assert f'href="/runs/fake-2/rollouts/search/{second.first}/0000/3"' in page


def test_of_a_metric_without_bounds_the_scores_decide(tell: Tell, client: TestClient) -> None:
    begun(tell, "fake-1", metric={"direction": "minimize"}).gates()
    begun(tell, "fake-2", metric={"direction": "minimize"})
    text = text_of(client.get(ADDRESS).text)
    # Rewards are of what is minimised, so that a reward of 1 is a score of -1.
    assert "fake-1 scores better on 2, fake-2 on 0, both the same on 2." in text
    assert "case-3-words ok -1.0000" in text


def test_runs_of_different_metrics_are_not_compared_by_case(tell: Tell, client: TestClient) -> None:
    begun(tell, "fake-1")
    begun(tell, "fake-2", metric={"bounds": [0.0, 20.0]})
    assert "their cases do not compare" in text_of(client.get(ADDRESS).text)


def test_the_comparison_holds_nothing_of_the_sealed_split(tell: Tell, client: TestClient) -> None:
    for name in ("fake-1", "fake-2"):
        story = begun(tell, name)
        story.rolls_out("sealed", story.first, [0.0, 1.0] * 15)  # cases 20 to 29 are of no other split
    assert "case-19-words" in client.get("/runs/fake-1/rollouts").text
    page = client.get(ADDRESS).text
    assert "answered 20 cases" in text_of(page)
    assert "case-2" not in page.replace("case-2-words", "")


@pytest.mark.parametrize("say", ["words", HOSTILE])
def test_right_answers_are_of_cases_on_which_both_runs_searched(
    say: str, tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(records, "recorded_task", lambda *_: LabelledTask(tmp_path, say))
    first = begun(tell, "fake-1", say)
    first.rolls_out("search", first.first, [0.0, 1.0] * 10, batch=1)  # cases 4 to 19 on search here, on the gate there
    first.gates()
    first.rolls_out("search", "b" * 12, [1.0] * 20, batch=1)
    begun(tell, "fake-2", say)
    page = client.get(ADDRESS).text
    rows = [row for row in page.split("<tr>") if "case-" in row]
    searched = [row for row in rows if "<td>search</td>" in row]
    mixed = [row for row in rows if "<td>search / gate</td>" in row]
    assert searched
    assert mixed
    assert all('<td class="cut">asked ' in row for row in rows)
    assert all('<td class="cut">right ' in row for row in searched)
    assert not any('<td class="cut">right ' in row for row in mixed)
    assert "<script>document" not in page
    assert "\u202e" not in page


class Renamed(LabelledTask):
    """The same ids for other inputs."""

    def instances(self, split: Split) -> list[Instance]:
        return [Instance(each.id, split, {"text": "another"}) for each in super().instances(split)]


def test_cases_that_ask_something_else_under_the_same_name_are_not_compared(
    tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun(tell, "fake-1")
    begun(tell, "fake-2")
    tasks = {"fake-1": LabelledTask, "fake-2": Renamed}
    monkeypatch.setattr(records, "recorded_task", lambda ledger, *_: tasks[ledger.folder.name](tmp_path, "words"))
    assert "have answered no case in common" in text_of(client.get(ADDRESS).text)


def test_of_many_cases_the_first_are_shown(tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "SHOWN", 3)
    first = begun(tell, "fake-1").gates()
    first.rolls_out("search", "b" * 12, [1.0] * 20, batch=1)
    begun(tell, "fake-2")
    page = client.get(ADDRESS).text
    assert "The first 3 are shown." in page
    assert len(re.findall(r"<td class=.cut.>case-", page)) == 3


def test_one_run_or_three_are_compared_without_their_cases(tell: Tell, client: TestClient) -> None:
    for name in ("fake-1", "fake-2", "fake-3"):
        begun(tell, name)
    for address in ("/compare?run=fake-1", f"{ADDRESS}&run=fake-3"):
        page = client.get(address).text
        assert "mark two in" in page
        assert "Case by case" not in page
