"""The parts that pages are made of: charts, diffs, lineage, texts, streams."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_dashboard import charts, diffs, server, words
from sia_dashboard.lineage import lineage

FINITE = st.floats(-1e9, 1e9)


@given(st.lists(FINITE, min_size=1))
def test_an_axis_holds_its_values_and_its_ticks(values: list[float]) -> None:
    axis = charts.Axis.over(values, 10, 200)
    assert all(10 <= axis.at(value) <= 200 for value in values)
    assert [axis.ticks()[0][0], axis.ticks()[-1][0]] == [10, 200]
    assert len(axis.ticks()) <= 6


@given(st.lists(FINITE, min_size=1))
def test_an_axis_holds_zero_or_says_that_it_does_not(values: list[float]) -> None:
    axis = charts.Axis.over(values, 10, 200)
    assert axis.cut or axis.low <= 0 <= axis.high
    assert not axis.cut or max(values) - min(values) < 0.05 * max(map(abs, values))


@pytest.mark.parametrize(
    ("values", "ends", "cut"),
    [
        ([0.3, 0.99], (0, 1), False),
        ([0.8, 0.85], (0, 1), False),
        ([3.1, 0.9], (0, 4), False),
        ([-86446.0, -80000.0], (-100000, 0), False),
        ([2.6349, 2.6358], (2.6348, 2.6358), True),
        ([0.5, 0.5], (0, 0.5), False),
    ],
)
def test_an_axis_begins_at_zero_unless_that_would_hide_the_differences(
    values: list[float], ends: tuple[float, float], cut: bool
) -> None:
    axis = charts.Axis.over(values, 10, 200)
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert axis.cut is cut


def test_an_axis_knows_nothing_of_what_is_not_finite() -> None:
    assert charts.Axis.over([math.nan, math.inf], 0, 100).ticks()


@given(st.lists(FINITE, min_size=1))
def test_a_histogram_counts_every_reward_once(rewards: list[float]) -> None:
    histogram = charts.histogram(rewards, "rewards")
    assert histogram
    assert sum(bar.count for bar in histogram.bars) == len(rewards) == histogram.total


def test_no_rewards_have_no_histogram() -> None:
    assert charts.histogram([], "rewards") is None


def row(index: int, parent: str, agent: str | None, *, accepted: bool = False, delta: float = 0.1) -> dict[str, Any]:
    gate = {"incumbent": 0.5, "delta": delta, "ci95": [delta - 0.1, delta + 0.1]} if agent else None
    return {
        "index": index,
        "candidate": 0,
        "name": "edit",
        "lever": "harness",
        "parent": parent,
        "agent": agent,
        "harness": "h",
        "accepted": accepted,
        "gate": gate,
    }


def test_the_incumbents_line_rises_where_a_candidate_was_accepted() -> None:
    chart = charts.scores({"value": 0.5, "ci95": [0.4, 0.6]}, [row(0, "a", "b", accepted=True), row(1, "b", "c")])
    assert chart
    heights = [float(point.split(",")[1]) for point in chart.line.split()]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 2
    assert [point.candidate for point in chart.points] == ["", "0.0", "1.0"]


def test_a_candidate_that_was_stopped_early_stands_below_the_incumbent_that_it_did_not_reach() -> None:
    """Compared on the first, easy instances alone, where the incumbent scores 0.9 and not 0.5."""
    stopped = row(0, "a", "b", delta=-0.05)
    stopped["gate"]["incumbent"] = 0.9
    chart = charts.scores({"value": 0.5, "ci95": [0.4, 0.6]}, [stopped])
    assert chart
    first, candidate = chart.points
    assert candidate.y > first.y  # pixels count downwards
    assert candidate.label == "0.0 edit: -0.0500 against the incumbent's 0.5000, rejected"


def test_an_interval_on_the_chart_of_scores_ends_where_the_metric_does() -> None:
    rows = [row(0, "a", "b", accepted=True, delta=0.5)]
    chart = charts.scores({"value": 0.5, "ci95": [0.4, 0.6]}, rows, (0.0, 1.0))
    assert chart
    assert chart.y[-1][1] == "1.0"
    assert chart.points[-1].high == chart.points[-1].y == chart.y[-1][0]


def test_the_labels_of_an_upright_axis_have_room() -> None:
    (chart,) = charts.curves([{"step": n, "loss": -86446.25 + 0.001 * n} for n in range(100)])
    assert chart.cut
    assert chart.left >= 6.5 * max(len(label) for _, label in chart.y) + 6


def test_the_last_candidates_of_a_long_run_begin_at_their_incumbent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MOST_POINTS", 2)
    rows = [row(n, "a", "b", accepted=True) for n in range(4)]
    chart = charts.scores({"value": 0.0, "ci95": [0.0, 0.0]}, rows, (0.0, 1.0))
    assert chart
    assert [point.candidate for point in chart.points] == ["2.0", "3.0"]
    assert chart.line.split()[0].endswith(f",{chart.points[0].y + (chart.y[0][0] - chart.y[-1][0]) * 0.2}")


def test_histograms_of_a_page_share_the_ends_of_the_metric() -> None:
    metric = {"bounds": [0.0, 1.0]}
    assert charts.ends(metric, [1.0, 1.0]) == (0.0, 1.0)
    assert charts.ends({"bounds": [0.0, 20.0]}, [0.5, 0.9]) == (0.5, 0.9)
    assert charts.ends({}, []) is None
    chart = charts.histogram([1.0, 1.0], "rewards", (0.0, 1.0))
    assert chart
    assert [label for _, label in chart.x][-1] == "1.0"
    assert [label for _, label in chart.y] == ["0", "2"]


def test_a_run_without_scores_has_no_chart() -> None:
    assert charts.scores(None, [row(0, "a", None)]) is None


def test_an_archive_is_a_tree_whose_lists_all_close() -> None:
    rows = [row(0, "a", "b"), row(1, "b", "c"), row(2, "a", None), row(3, "c", "d"), row(4, "gone", "e")]
    nodes = lineage("a", "h", rows)
    assert [node.agent for node in nodes] == ["a", "b", "c", "d", ""]
    assert sum(node.opens for node in nodes) == sum(node.closes for node in nodes) == 3


def test_a_long_line_of_generations_is_no_deeper_than_python_goes() -> None:
    rows = [row(n, str(n), str(n + 1), accepted=True) for n in range(3000)]
    assert len(lineage("0", "h", rows)) == 3001


def test_an_agent_that_comes_up_again_has_its_children_once() -> None:
    rows = [row(0, "a", "b"), row(1, "b", "a"), row(2, "b", "b")]
    assert [node.agent for node in lineage("a", "h", rows)] == ["a", "b", "a", "b"]


def test_a_diff_keeps_every_line_and_colours_both_sides() -> None:
    text = '--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n s = """\n-def old\n+def new\n """\n\\ No newline at end of file\n'
    lines = diffs.diff(text)
    assert ["".join(piece.text for piece in line.pieces) for line in lines][2:] == [
        "@@ -1,3 +1,3 @@",
        's = """',
        "def old",
        "def new",
        '"""',
        "\\ No newline at end of file",
    ]
    assert [line.kind for line in lines] == ["file", "file", "hunk", "", "removed", "added", "", "hunk"]
    assert {piece.kind for piece in lines[5].pieces} == {"string"}  # as it stands within one that began above


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_passes_for_a_diff_or_a_file(text: str) -> None:
    diffs.diff(text)
    diffs.diff(f"--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n{text}")
    diffs.source("x.py", text)
    diffs.source("x.toml", text)
    diffs.source("unknown", text)


def test_tool_calls_are_read_out_of_a_message_and_other_brackets_are_left() -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    message = {"role": "assistant", "content": f"[{{1}}] see {json.dumps(call)}"}
    (entry,) = words.conversation([{"messages": [], "replies": [message]}])
    assert (entry.text, entry.calls, entry.sampled) == ("[{1}] see ", [words.Call("look", "{}")], True)
    (cut,) = words.conversation([{"messages": [{"role": "user", "content": '[{"function": '}], "replies": []}])
    assert (cut.text, cut.calls) == ('[{"function": ', [])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, []),
        ("not json", [("", "not json")]),
        ('"a\\nb"', [("", "a\nb")]),
        ('{"code": "a\\nb", "n": [1]}', [("code", "a\nb"), ("n", "[\n  1\n]")]),
        ('{"charge": "theft"}', [("", '{\n  "charge": "theft"\n}')]),
    ],
)
def test_an_answer_stands_as_people_write_it(text: str | None, parts: list[tuple[str, str]]) -> None:
    assert words.answer(text) == parts


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (156, "2 min 36 s"), (11_100, "3 h 5 min")]
)
def test_a_duration_is_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"text": "one\n plus  two"}, "one plus two"),
        ({"a": 1, "b": [2]}, '{"a": 1, "b": [2]}'),
        ({}, "{}"),
        (None, "null"),
        ("x" * 500, "x" * 120),
        (["x" * 500] * 500, '["' + "x" * 118),
    ],
)
def test_an_excerpt_of_a_value_is_one_short_line(value: Any, line: str) -> None:
    assert words.excerpt(value) == line


def test_an_answer_nested_without_end_is_shown_all_the_same() -> None:
    assert words.answer("[" * 100_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.2500"), (1, "1"), (12345, "12,345"), (1.5e-7, "1.5e-07"), (0.0, "0.0000"), (True, "1")],
)
def test_figures_are_short_and_tell_small_ones_from_nothing(value: float, text: str) -> None:
    assert words.figure(value) == text


def test_a_stream_ends_with_the_server() -> None:
    ending = threading.Event()
    ending.set()
    answer: Any = server.stream(lambda: (1, False), ending)

    async def read(parts: AsyncIterator[str]) -> list[str]:
        return [part async for part in parts]

    assert anyio.run(read, answer.body_iterator) == ["retry: 1000\n\n"]


def test_a_stream_tells_of_each_change_once_and_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_SECONDS", 0)
    monkeypatch.setattr(server, "QUIET_LOOKS", 2)
    states = iter([(1, False), (1, False), (1, False), (2, False), (2, True)])
    answer: Any = server.stream(lambda: next(states), threading.Event())

    async def read(parts: AsyncIterator[str]) -> list[str]:
        return [part.strip() async for part in parts]

    events = anyio.run(read, answer.body_iterator)
    assert events == [
        "retry: 1000",
        "event: changed\ndata: 1",
        ": still here",
        "event: changed\ndata: 2",
        "event: finished\ndata: {}",
    ]
