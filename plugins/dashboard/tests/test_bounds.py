"""A page has a bound, whatever a run folder holds; and no name or text of it breaks a page or acts on it."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from told_runs import Tell

from sia_dashboard import bounds, charts, diffs, library, records, server, words
from sia_dashboard.library import Library
from sia_dashboard.pages import Served
from sia_dashboard.plots import draw
from sia_dashboard.records import Record

LARGE = 2_000_000
"""Characters of a page, at most."""


# Texts


@pytest.mark.parametrize(
    "text",
    ["'" * 3_000_000, "x\n" * 3_000_000, "(" * 3_000_000, "f'{" * 1_000_000, '"""\n' * 500_000, "\\" * 3_000_000],
    ids=lambda text: repr(text[:4]),
)  # fmt: skip
@pytest.mark.parametrize("name", ["harness.py", "x.rb", "x.pl", "x"])
def test_a_text_is_cut_before_it_is_coloured(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, texts = diffs._coloured, []
    monkeypatch.setattr(diffs, "_coloured", lambda text, lexer: texts.append(text) or coloured(text, lexer))
    for lines in (diffs.source(name, text), diffs.diff(f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n+{text}")):
        assert len(lines) <= diffs.MOST + 1
        assert sum(len(piece.text) for line in lines for piece in line.pieces) <= diffs.MOST_TEXT + 100
        assert "more characters" in lines[-1].pieces[0].text
    assert all(len(text) <= diffs.MOST_TEXT and max(map(len, text.split("\n"))) <= diffs.WIDEST for text in texts)


@pytest.mark.parametrize(
    "content",
    ["[{" * 500_000, '[{"a":1},' * 5_000, "x" * 5_000_000, "[" * 100_000, '[{"function": 1}]' * 1_000],
    ids=lambda text: text[:4],
)
def test_a_message_of_any_size_is_read_a_few_times_at_most(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, texts = json.loads, []
    monkeypatch.setattr(json, "loads", lambda text: texts.append(text) or loads(text))
    entries = words.conversation([{"messages": [{"role": "user", "content": content}] * 10_000, "replies": []}] * 10)
    assert len(entries) == bounds.SHOWN
    assert len(entries[0].text) <= words.MOST_MESSAGE + 100
    assert len(texts) <= words.CALLS_TRIED * bounds.SHOWN


@pytest.mark.parametrize(
    "text",
    [
        json.dumps("x" * 5_000_000),
        "[" * 900 + "1," * 20_000 + "1" + "]" * 900,
        "[" * 100_000,
        json.dumps({str(n): "a\nb" for n in range(10_000)}),
    ],
    ids=["long", "indented", "deep", "wide"],
)
def test_an_answer_of_any_shape_is_shown_in_a_bounded_text(text: str) -> None:
    parts = words.answer(text)
    assert len(parts) <= bounds.SHOWN
    assert sum(len(words.safe(part)) for _, part in parts) <= bounds.MOST_TEXT + 100


def test_a_value_is_cut_in_every_direction() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    cut = bounds.bounded(
        {"a": "x" * 10_000, "b": list(range(10_000)), "c": 10**5000, "d": deep, "e": {}, "k" * 9999: 1}
    )
    assert len(json.dumps(cut)) < 20_000
    assert bounds.bounded({"a": [1, 2.5, None, True, "x"]}) == {"a": [1, 2.5, None, True, "x"]}


# Figures

ROWS = [
    [1e300, -1e300],
    [1.7e308] * 3,
    [1e-320, 0.0],
    [5e-324, 5e-324],
    [math.inf, -math.inf],
    [math.nan, 1.0],
    [1e16, 1e16 + 2],
]


@pytest.mark.parametrize("values", ROWS, ids=str)
def test_figures_of_any_size_are_drawn(values: list[float]) -> None:
    charts.histogram(values, "h")
    charts.curves([{"step": n, "reward": value} for n, value in enumerate(values)])
    interval = {"value": values[0], "ci95": (min(values), max(values))}
    charts.forest("f", [("a", interval)] * 1000, "+")
    gate = {"incumbent": values[0], "delta": values[1], "ci95": values[:2]}
    row = {"index": 0, "candidate": 0, "name": "n", "lever": "harness", "accepted": True, "gate": gate}
    drawn = charts.scores(None, [row] * 5000)
    assert drawn
    assert len(drawn.points) <= charts.MOST_POINTS
    assert all(len(label) < 40 for _, label in drawn.y)


@pytest.mark.parametrize("values", ROWS, ids=str)
def test_pictures_of_figures_of_any_size_and_of_names_like_formulas_are_made(
    values: list[float], record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    report = record.report()
    gate = {"incumbent": values[0], "delta": values[1], "ci95": values[:2]}
    rows = [{**row, "gate": gate} for row in report["generations"]]
    score = {"value": values[0], "ci95": values[:2]}
    changed = {"metric": {"name": r"$\frac$"}, "generations": rows, "sealed": {"initial": score, "final": score}}
    monkeypatch.setattr(record, "report", lambda: {**report, **changed})
    assert "scores.png" in [path.name for path in draw(record, tmp_path / "plots")]


# Runs


def test_a_long_list_of_candidates_is_turned_page_by_page(tell: Tell, client: TestClient) -> None:
    story = tell("many").whole()
    for number in range(2, 450):
        story.ledger.record(f"generation/0/gated/{number}", story.ledger.get("generation/0/gated/0")[0])  # type: ignore[index]
    page = client.get("/runs/many").text
    assert "450 candidates; 401 to 450 are shown" in page
    assert 'href="/runs/many?page=2"' in page
    assert "1 to 200 are shown" in client.get("/runs/many?page=1").text
    assert len(page) < LARGE


def test_more_candidates_or_bytes_than_a_page_can_show_are_said(
    tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell().whole()
    monkeypatch.setattr(records, "MOST_CANDIDATES", 1)
    assert "2 candidates, more than a page can show" in client.get("/runs/fake-1").text
    assert "more than a page can show" in client.get("/").text
    tell("large").whole()
    monkeypatch.setattr(records, "MOST_BYTES", 1000)
    answer = client.get("/runs/large")
    assert answer.status_code == 422
    assert "bytes, more than a page can show" in answer.text


def test_rollouts_past_the_bound_are_counted(tell: Tell, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    tell().begins()
    monkeypatch.setattr(records, "MOST_ROLLOUTS", 10)
    monkeypatch.setattr(records, "MOST_TEXT", 100)
    page = client.get("/runs/fake-1/rollouts").text
    assert "10 rollouts" in page
    assert "14 more are not listed" in page


def test_a_rollout_of_any_size_has_a_page_of_a_bounded_one(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    huge = "<script>alert(1)</script>" * 40_000
    turn = {"messages": [{"role": "user", "content": huge}] * 20, "replies": []}
    rollout = story._rollout(1.0, 0).to_json()
    rollout |= {"instance": huge, "answer": json.dumps(huge), "log": huge, "feedback": huge, "message": huge}
    rollout |= {"metrics": {f"m{n}" * 2000: 1.0 for n in range(1000)}, "step_rewards": [1.0] * 50_000, "turns": [turn]}
    story.ledger.record(f"rollouts/search/{'e' * 12}/0000", {"rollouts": [rollout], "given_up": ""})
    for address in (f"/runs/fake-1/rollouts/search/{'e' * 12}/0000/0", "/runs/fake-1/rollouts", "/runs/fake-1"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert len(answer.text) < 2 * LARGE
        assert "<script>alert" not in answer.text


def test_a_step_with_a_very_long_name_is_left_out_of_lists(tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    story.rolls_out("search", "a" * 100_000, [1.0])
    assert len(client.get("/runs/fake-1/rollouts").text) < LARGE


def test_many_runs_are_turned_page_by_page(
    tell: Tell, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = tell().whole()
    story.ledger.close()
    for number in range(250):
        (tmp_path / "runs" / f"copy-{number}").mkdir()
        shutil.copy(story.ledger.folder / "ledger.db", tmp_path / "runs" / f"copy-{number}")
    monkeypatch.setattr(library, "OPEN", 5)
    page = client.get("/").text
    assert "251 runs; 1 to 100 are shown" in page
    assert page.count("<tr id=") == 100
    assert "201 to 251 are shown" in client.get("/?page=3").text
    assert "111 runs; 101 to 111" in client.get("/?q=copy-1&page=2").text
    monkeypatch.setattr(library, "LIST_SECONDS", 0.0)
    assert "Some records were not read yet" in client.get("/?page=2").text
    monkeypatch.setattr(library, "MOST_RUNS", 20)
    assert client.get("/").text.count("<tr id=") == 20


@pytest.mark.parametrize(
    "name",
    ["static", "a b", "...", "-", "a;b?c#d&e=f", "\"'><script>alert(1)<script>",
     "line\nbreak", "tab\t", "\u202egnp", "ж中", "x" * 255, "live", "{{7*7}}", "javascript:alert(1)", "\\", "a:b@c"],
    ids=repr,
)  # fmt: skip
def test_a_run_of_any_name_is_listed_and_opens(name: str, tell: Tell, client: TestClient) -> None:
    tell(name).whole()
    page = client.get("/").text
    link = next(part for part in page.split('"') if part.startswith("/runs/"))
    assert "<script>alert" not in page
    assert "{{" in page or "49" not in name
    for address in (link, f"{link}/candidates/0.0", f"{link}/rollouts", f"{link}/find?q=x", f"/compare?run={link[6:]}"):
        answer = client.get(address)
        assert (answer.status_code, "<script>alert" in answer.text) == (200, False)
    listing = client.get(f"{link}/rollouts").text
    assert client.get(next(part for part in listing.split('"') if "/rollouts/search/" in part)).status_code == 200


@pytest.mark.parametrize("name", ["%2e%2e", "%2Fetc", "..%2f", "%25"])
def test_a_run_whose_name_looks_like_an_escape_opens(name: str, tell: Tell, library: Library) -> None:
    tell(name).whole()
    address = Served(name).run()
    assert address == f"/runs/{name.replace('%', '%25')}"
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(address),  # the test client would undo the escapes twice
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }
    messages: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        messages.append(message)

    anyio.run(server.application(library), scope, receive, send)
    assert messages[0]["status"] == 200


def test_a_run_whose_name_is_no_text_is_listed_as_odd(tell: Tell, client: TestClient, tmp_path: Path) -> None:
    story = tell().whole()
    story.ledger.close()
    odd = os.fsencode(tmp_path / "runs") + b"/\xff\xfe<script>"
    os.mkdir(odd)
    shutil.copy(story.ledger.folder / "ledger.db", os.fsdecode(odd))
    for address in ("/", "/?q=fake", "/?q=%FF"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "<script>" not in answer.text
    assert "its name is not UTF-8" in client.get("/").text


@pytest.mark.parametrize(
    "address",
    [
        "/runs/..", "/runs/%2e%2e", "/runs/.", "/runs/%00", "/runs/" + "x" * 5000, "/runs/%FF%FE", "/runs/..%2ffake-1",
        "/runs/fake-1/candidates/" + "9" * 5000 + ".0", "/runs/fake-1/candidates/0.-1", "/runs/fake-1/candidates/a.b",
        "/runs/fake-1/rollouts/search/x/0000/" + "9" * 5000, "/runs/fake-1/rollouts/search/x/0000/-1",
        "/runs/fake-1/harness/" + "é" * 64, "/runs/fake-1/rollouts?page=" + "9" * 5000, "/?page=%00",
        "/compare?run=%00",
    ],
    ids=lambda address: address[:40],
)  # fmt: skip
def test_no_address_is_an_error_of_the_server(address: str, tell: Tell, client: TestClient) -> None:
    tell().whole()
    assert client.get(address).status_code in (200, 404)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generation/0/gated/0", {}),
        ("generation/0/gated/x", []),
        ("generation/0/gated/9", {"gate": 1, "lever": []}),
        ("generation/0/decide", 7),
        ("rollouts/search/x/0", {"rollouts": [{"reward": "1"}]}),
        ("closed", []),
        ("robustness", {"history": [1]}),
        ("finished", {"spent": 1}),
    ],
)
def test_a_record_that_was_made_up_is_said_to_be_damaged(key: str, value: Any, tell: Tell, client: TestClient) -> None:
    story = tell().begins()
    story.ledger.record(key, value)
    for address in ("/", "/runs/fake-1", "/runs/fake-1/rollouts", "/runs/fake-1/candidates/0.0", "/compare?run=fake-1"):
        assert client.get(address).status_code in (200, 404, 422)


# Who asks


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"origin": "http://127.0.0.1:8642"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_what_a_browser_asks_for_another_site_is_refused(
    headers: dict[str, str], status: int, tell: Tell, client: TestClient
) -> None:
    tell().whole()
    for address in ("/", "/runs/fake-1", "/static/style.css", "/runs/fake-1/live"):
        answer = client.get(address, headers=headers)
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_web_socket_is_opened(client: TestClient) -> None:
    for address in ("/", "/live", "/static/style.css"):
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(address):
            pass
        assert closed.value.code == 1008
