"""The pages, through the server's own entry, without a network or a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from told_runs import LabelledTask, Story, Tell

from sia_core.run.ledger import Ledger
from sia_dashboard import records
from sia_dashboard.guard import HEADERS
from sia_dashboard.library import Library

HOSTILE = "\"><script>document.title='owned'</script>{{7*7}}\u202e</style><!--'onload=alert(1)"

ADDRESSES = (
    "/",
    "/runs/fake-1",
    "/runs/fake-1/candidates/0.0",
    "/runs/fake-1/candidates/0.1",
    "/runs/fake-1/rollouts",
    "/runs/fake-1/find?q=because",
    "/compare?run=fake-1",
)


def text_of(client: TestClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return " ".join(re.sub("<[^>]*>", " ", answer.text).split())


def test_the_list_shows_each_run_with_its_sealed_scores(tell: Tell, client: TestClient) -> None:
    tell().whole()
    tell("fake-2").begins()
    text = text_of(client, "/")
    assert "fake-1 finished" in text
    assert "fake-2 unfinished" in text
    assert "0.5000 [0.3520, 0.6480]" in text


def test_the_list_has_what_a_run_cost_and_how_long_it_took(tell: Tell, client: TestClient) -> None:
    tell().whole()
    tell("fake-2").begins().gates()
    page, text = client.get("/").text, text_of(client, "/")
    assert "0.5000 [0.3520, 0.6480] 0.5000 [0.3520, 0.6480] words 0.5000 12 s words" in text
    assert "0.8000 on the gate so far" in text
    assert page.count(">dollars</th>") == 1


def test_the_list_is_searched(tell: Tell, client: TestClient) -> None:
    tell().whole()
    assert "fake-1" in text_of(client, "/?q=FAKE")
    assert "No run matches" in text_of(client, "/?q=other")


def test_a_run_that_cannot_be_read_costs_its_own_row_alone(tell: Tell, client: TestClient) -> None:
    tell().whole()
    broken = tell("broken-1").begins()
    broken.ledger._db.execute("UPDATE events SET value = '0' WHERE key = 'gate'")
    broken.ledger._db.commit()
    assert "damaged at step" in text_of(client, "/")
    assert "fake-1 finished" in text_of(client, "/")


def test_a_run_shows_scores_lineage_budget_and_how_far_it_holds(tell: Tell, client: TestClient) -> None:
    tell().whole()
    page = client.get("/runs/fake-1").text
    text = text_of(client, "/runs/fake-1")
    assert page.count('class="mark') == 3 + 3  # the first agent and two candidates; initial, final and the incumbent
    assert '<meter aria-label="rollouts spent" min="0" max="1000.0" value="100.0">' in page
    assert "0.0 change words accepted bbbbbbbbbbbb" in text
    assert "0.1 change words rejected cccccccccccc" in text
    assert "+0.3000 [+0.1000, +0.5000]" in text
    assert "initial agent, words" in text


def test_a_candidate_names_the_incumbent_that_it_was_compared_with_and_its_change_against_its_parent(
    tell: Tell, client: TestClient
) -> None:
    change = {"value": 0.05, "n": 20, "ci95": [-0.02, 0.12]}
    story = tell().begins().gates().gates(index=1, agent="c" * 12, against="b" * 12, against_parent=change)
    story.gates(1, agent="d" * 12, accepted=False)
    text = text_of(client, "/runs/fake-1")
    assert "0.0 change words +0.0500 [-0.0200, +0.1200]" in text
    assert "+0.3000 [+0.1000, +0.5000] first agent the same" in text
    text = text_of(client, "/runs/fake-1/candidates/0.1")
    assert "Compared with 0.0 change words (bbbbbbbbbbbb), the incumbent of that moment" in text
    assert "Change against its parent +0.0500 [-0.0200, +0.1200]" in text


def test_a_run_shows_what_each_language_model_was_asked_and_cost(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    usage = {"input": 1200, "output": 300, "cache_read": 800, "cache_write": 0}
    story.ledger.record(f"calls/draft/0/{'a' * 16}/0/intent/0", {"model": HOSTILE, "digest": "", "most": 1.0})
    story.ledger.record(f"calls/draft/0/{'a' * 16}/0/reply", {"reply": {"usage": usage}, "dollars": 0.25})
    page, text = client.get("/runs/fake-1").text, text_of(client, "/runs/fake-1")
    assert "1 2,000 800 300 0.2500" in text
    assert HOSTILE not in page


def test_a_hostile_name_of_an_incumbent_is_text(tell: Tell, client: TestClient) -> None:
    tell(say=HOSTILE).begins().gates().gates(1, agent="c" * 12, against="b" * 12, parent="b" * 12)
    for address in ("/runs/fake-1", "/runs/fake-1/candidates/1.0"):
        page = client.get(address).text
        assert "0.0 change &#34;&gt;&lt;script&gt;" in page
        assert "<script>document" not in page


def test_sealed_rollouts_are_not_shown_one_by_one(tell: Tell, client: TestClient) -> None:
    story = tell().whole()
    assert "sealed" not in client.get("/runs/fake-1/rollouts").text
    assert client.get(f"/runs/fake-1/rollouts/sealed/{story.first}/0000/0").status_code == 404


def test_a_candidate_shows_decision_evidence_prediction_outcome_and_its_diff(tell: Tell, client: TestClient) -> None:
    tell().whole()
    page, text = client.get("/runs/fake-1/candidates/0.0").text, text_of(client, "/runs/fake-1/candidates/0.0")
    assert "because words" in text
    assert "Predicted gain +0.1000" in text
    assert "Gain on search +0.5000" in text
    assert "success rate 0.2500" in text
    assert re.search(r'<tr class="removed"><td class="mark">-</td><td>    <span class="keyword">return', page)
    assert re.search(r'<tr class="added">.*<span class="string">&#34;words&#34;</span>', page)


def test_an_update_shows_its_curves_and_what_it_took_beside_the_estimate(tell: Tell, client: TestClient) -> None:
    tell().whole()
    page, text = client.get("/runs/fake-1/candidates/0.1").text, text_of(client, "/runs/fake-1/candidates/0.1")
    for title in ("reward", "KL a step", "entropy", "gradient norm"):
        assert f'aria-label="{title}' in page
    assert "The selection table said: ppo words" in text
    assert "took 9" in text


def test_a_decision_under_way_has_a_page_already(tell: Tell, client: TestClient) -> None:
    tell().begins().decides().trains()
    assert "Under way 0.0 edit words (harness) 0.1 ppo (weights)" in text_of(client, "/runs/fake-1")
    assert "under way" in text_of(client, "/runs/fake-1/candidates/0.1")


def test_rollouts_are_paged_filtered_and_searched(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    story.rolls_out("search", "d" * 12, [1.0] * 250)
    text = text_of(client, "/runs/fake-1/rollouts?agent=dddddddddddd")
    assert "250 rollouts, mean reward 1.0000; 1 to 100 are shown" in text
    assert "Page 1 of 3" in text
    assert "201 to 250 are shown" in text_of(client, "/runs/fake-1/rollouts?agent=dddddddddddd&page=3")
    assert "201 to 250 are shown" in text_of(client, "/runs/fake-1/rollouts?agent=dddddddddddd&page=999")
    assert "1 to 100 are shown" in text_of(client, "/runs/fake-1/rollouts?agent=dddddddddddd&page=-1")
    assert "1 rollouts" in text_of(client, "/runs/fake-1/rollouts?words=QUESTION+249")


@pytest.mark.parametrize(
    ("failure", "count"), [("wrong", 3), ("crashed", 1), ("invalid", 1), ("ok", 5), ("invalid-answer", 1)]
)
def test_rollouts_are_filtered_by_failure(tell: Tell, client: TestClient, failure: str, count: int) -> None:
    story = tell()
    story.metric = {"bounds": [0.0, 1.0]}
    ends = {0: "crash", 1: "invalid-answer"}
    story.begins().rolls_out("search", "d" * 12, [0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 1.0], outcomes=ends)
    address = f"/runs/fake-1/rollouts?agent=dddddddddddd&outcome={failure}"
    assert f"{count} rollouts" in text_of(client, address)
    assert f'<option value="{failure}" selected>{failure}</option>' in client.get(address).text


@pytest.fixture
def graded(tell: Tell) -> Story:
    """A run of a metric from 0 to 1, and an agent whose answers were right, wrong, in between, and none."""
    story = tell()
    story.metric = {"bounds": [0.0, 1.0]}
    ends = {0: "timeout", 1: "invalid-answer"}
    story.begins().rolls_out("search", "d" * 12, [0.0, 0.0, 1.0, 0.5, 0.0], outcomes=ends)
    return story


def test_each_kind_of_failure_is_a_link_with_its_count(graded: Story, client: TestClient) -> None:
    page = client.get("/runs/fake-1/rollouts?agent=dddddddddddd&outcome=wrong").text
    assert "all 5 wrong 2 crashed 1 invalid 1" in text_of(client, "/runs/fake-1/rollouts?agent=dddddddddddd")
    assert (
        '<a href="/runs/fake-1/rollouts?agent=dddddddddddd&amp;outcome=wrong" aria-current="true">wrong <span' in page
    )
    assert '<a href="/runs/fake-1/rollouts?agent=dddddddddddd&amp;outcome=crashed">crashed' in page


def test_an_answer_that_came_is_said_to_be_right_partial_or_wrong(graded: Story, client: TestClient) -> None:
    page = client.get("/runs/fake-1/rollouts?agent=dddddddddddd").text
    labels = re.findall(r'<td><span class="(\w*)">([\w-]+)</span>', page)
    assert labels == [
        ("bad", "timeout"),
        ("bad", "invalid-answer"),
        ("good", "right"),
        ("bad", "partial"),
        ("bad", "wrong"),
    ]
    assert "1 timeout , 1 invalid-answer , 1 right, 1 partial , 1 wrong" in text_of(client, "/runs/fake-1")


def test_of_what_is_minimised_the_lowest_is_right(tell: Tell, client: TestClient) -> None:
    story = tell()
    story.metric = {"bounds": [0.0, 20.0], "direction": "minimize"}
    story.begins().rolls_out("search", "d" * 12, [-5.0, 0.0, -20.0, -1.0])
    page = client.get("/runs/fake-1/rollouts?agent=dddddddddddd").text
    assert re.findall(r">(right|partial|wrong)</span>", page) == ["right", "wrong", "partial"]


def test_from_a_rollout_the_list_that_was_filtered_is_read_on(graded: Story, client: TestClient) -> None:
    listed = client.get("/runs/fake-1/rollouts?agent=dddddddddddd&outcome=wrong").text
    address = "/runs/fake-1/rollouts/search/dddddddddddd/0000/3?agent=dddddddddddd&amp;outcome=wrong"
    assert f'href="{address}"' in listed
    page = client.get(address.replace("&amp;", "&")).text
    assert "1 of 2" in page
    assert "Previous rollout" not in page
    following = address.replace("/3?", "/4?")
    assert f'<a rel="next" href="{following}">' in page
    last = client.get(following.replace("&amp;", "&")).text
    assert f'<a rel="prev" href="{address}">' in last
    assert "Next rollout" not in last


def test_a_rollouts_page_leads_to_the_same_case_by_other_agents(graded: Story, client: TestClient) -> None:
    text = text_of(client, "/runs/fake-1/rollouts/search/dddddddddddd/0000/2")
    assert "other rollouts agent result reward answer or message purpose first agent wrong 0.0000" in text
    page = client.get("/runs/fake-1/rollouts/search/dddddddddddd/0000/2").text
    assert f'href="/runs/fake-1/rollouts/search/{graded.first}/0000/2"' in page


@pytest.mark.parametrize("say", ["words", HOSTILE])
def test_a_rollouts_page_has_its_input_and_on_search_the_expected_answer(
    say: str, tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    story = tell(say=say).begins()
    monkeypatch.setattr(records, "recorded_task", lambda *_: LabelledTask(tmp_path, say))
    pages = {
        purpose: client.get(f"/runs/fake-1/rollouts/{purpose}/{story.first}/0000/1").text
        for purpose in ("search", "gate")
    }
    assert all("<h2>Input</h2><h3>text</h3><pre>asked " in page for page in pages.values())
    assert "<h2>Expected answer</h2><pre>right " in pages["search"]
    assert "Expected answer" not in pages["gate"]
    assert not any("<script>document" in page or "\u202e" in page for page in pages.values())


@pytest.mark.parametrize("say", ["words", HOSTILE])
def test_the_list_of_rollouts_has_inputs_and_on_search_the_expected_answers(
    say: str, tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(say=say).begins()
    monkeypatch.setattr(records, "recorded_task", lambda *_: LabelledTask(tmp_path, say))
    pages = {purpose: client.get(f"/runs/fake-1/rollouts?purpose={purpose}").text for purpose in ("search", "gate")}
    assert all('<td class="cut">asked ' in page for page in pages.values())
    assert '<td class="cut">right ' in pages["search"]
    assert '<td class="cut">right ' not in pages["gate"]
    assert ">expected</th>" not in pages["gate"]
    assert not any("<script>document" in page or "\u202e" in page for page in pages.values())


def test_a_rollout_of_a_task_that_is_not_here_has_a_page_without_its_input(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    assert "<h2>Input" not in client.get(f"/runs/fake-1/rollouts/search/{story.first}/0000/1").text


def test_a_rollout_reads_as_a_conversation_with_what_was_sampled_marked(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    address = f"/runs/fake-1/rollouts/search/{story.first}/0000/1"
    page, text = client.get(address).text, text_of(client, address)
    assert "user question 1 words assistant sampled: trained on calls tools I look. look {&#34;at&#34;: 1}" in text
    assert page.count('class="sampled"') == 1
    assert "<h3>code</h3><pre>line one\nline two</pre>" in page  # an answer that is code stands as code


def test_a_search_finds_candidates_and_rollouts(tell: Tell, client: TestClient) -> None:
    tell().whole()
    assert "0.0 change words" in text_of(client, "/runs/fake-1/find?q=BECAUSE")
    assert "1 rollouts" not in text_of(client, "/runs/fake-1/find?q=question")
    assert "0 rollouts" in text_of(client, "/runs/fake-1/find?q=nowhere")


def test_a_harness_can_be_read_file_by_file(tell: Tell, client: TestClient) -> None:
    story = tell().whole()
    assert "harness.py" in text_of(client, f"/runs/fake-1/harness/{story.harness}")


@pytest.mark.parametrize(
    "address",
    [
        "/runs/none",
        "/runs/..%2F..%2Fetc",
        "/runs/fake-1/candidates/7.7",
        "/runs/fake-1/harness/..%2F..",
        "/runs/fake-1/harness/" + "f" * 64,
        "/runs/fake-1/rollouts/search/x/0000/0",
        "/static/../records.py",
        "/nowhere",
    ],
)
def test_what_is_not_there_is_said_to_be_missing(tell: Tell, client: TestClient, address: str) -> None:
    tell().whole()
    assert client.get(address).status_code == 404


def test_a_run_that_has_only_just_begun_is_told_of(tell: Tell, client: TestClient) -> None:
    tell()
    assert "has only just begun" in text_of(client, "/runs/fake-1")
    assert "fake-1" in text_of(client, "/")


def test_a_run_that_goes_on_shows_more_on_the_next_look(tell: Tell, client: TestClient) -> None:
    story = tell().begins().decides()
    assert "none yet" in text_of(client, "/runs/fake-1")
    assert "24 rollouts" in text_of(client, "/runs/fake-1/rollouts")
    story.gates()
    assert "0.0 change words accepted" in text_of(client, "/runs/fake-1")
    assert "28 rollouts" in text_of(client, "/runs/fake-1/rollouts")


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_text_of_a_run_becomes_a_part_of_the_page(tell: Tell, client: TestClient, address: str) -> None:
    tell(say=HOSTILE).whole()
    page = client.get(address).text
    assert "<script>document" not in page
    assert "'onload" not in page
    assert "\u202e" not in page
    assert "49" not in re.sub(r"[\d.]{3,}|[a-f\d]{12}", "", page)
    assert "&lt;script&gt;" in page or address == "/compare?run=fake-1"


@pytest.mark.parametrize("address", [*ADDRESSES, "/static/style.css", "/nowhere"])
def test_every_answer_has_the_strict_policy(tell: Tell, client: TestClient, address: str) -> None:
    tell().whole()
    headers = client.get(address).headers
    assert {key: headers[key] for key in HEADERS} == HEADERS
    assert "unsafe" not in headers["content-security-policy"]


def test_nothing_that_a_page_needs_comes_from_elsewhere_or_stands_in_it(tell: Tell, client: TestClient) -> None:
    tell().whole()
    for address in ADDRESSES:
        page = client.get(address).text
        assert not re.search(r'(src|href|action)="(?!/|#|data:,)', page)
        assert " style=" not in page
        assert not re.search(r"<script(?! src)", page)
        assert not re.search(r" on\w+=", page)


def test_the_pages_leave_the_record_as_it_was(tell: Tell, client: TestClient, library: Library) -> None:
    story: Story = tell().whole()
    story.ledger.close()
    before = {path: path.read_bytes() for path in story.ledger.folder.rglob("*") if path.is_file()}
    for address in ADDRESSES:
        client.get(address)
    library.close()
    after = {path: path.read_bytes() for path in story.ledger.folder.rglob("*") if path.is_file()}
    assert {path.name: len(content) for path, content in before.items()} == {
        path.name: len(content) for path, content in after.items() if not path.name.endswith(("-shm", "-wal"))
    }
    assert all(after[path] == content for path, content in before.items())


def test_a_run_that_was_made_anew_under_the_same_name_is_read_anew(tell: Tell, client: TestClient) -> None:
    story = tell().whole()
    assert "finished" in text_of(client, "/runs/fake-1")
    story.ledger.close()
    (story.ledger.folder / "ledger.db").unlink()
    Ledger.create(story.ledger.folder).close()
    assert "has only just begun" in text_of(client, "/runs/fake-1")
