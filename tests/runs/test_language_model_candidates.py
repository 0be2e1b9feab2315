"""Whole runs of several candidates a generation: the real SDKs against the stand-in server, on the example of sums."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from command_runs import check_killed_at_calls, finished
from example_runs import command
from record_runs import PRICES
from scripted_model import LAST, STOP, decided, first_message, learn

from sia_testing.model_server import Asked, ModelServer, Turn, Use

pytestmark = pytest.mark.real

SIGNS = {"minus": ("-", "- 0 -"), "times": ("*", "* 1 *")}
"""How an operation is taught, and how again, in other words."""

READ = Use("read_file", {"path": "harness.py"})


def aside(name: str) -> Use:
    """The working copy as a candidate, which is set aside."""
    prediction = {"gain": 0.3, "where": f"sums that say {name}"}
    return Use("set_aside", {"name": name, "reason": f"nothing knows {name} yet", "prediction": prediction})


def missing(source: str) -> str:
    """The first operation that a harness does not know."""
    return next(name for name in SIGNS if name not in source)


def play(request: Asked) -> Turn:
    """Two candidates that each learn one operation; then, from two parents, what each of these lacks; then a stop."""
    first = first_message(request)
    count = sum(message["role"] == "assistant" for message in request.body["messages"])
    generation = int(first.split(".")[0].split()[1])
    if generation == 0:
        ruined = Use("replace_text", {"path": "harness.py", "old": LAST, "new": "    return ("})
        repaired = Use("replace_text", {"path": "harness.py", "old": "    return (", "new": LAST})
        turns = [
            [ruined, aside("ruined")],
            [repaired, learn("minus", "-"), aside("minus")],
            [learn("times", "*"), decided("times", 0.3)],
        ]
        return Turn(uses=turns[count])
    if generation == 1:
        if count == 0:
            return Turn(uses=[READ])
        name = missing(request.results[-1])
        ends = [aside(name), READ] if count == 1 else [decided(name, 0.3)]
        return Turn(uses=[learn(name, SIGNS[name][count - 1]), *ends])
    return Turn(uses=[STOP])


CALLS = 7
"""Three of the first generation, three of the second, and one that stops."""


def options(kind: str, server: ModelServer, rule: str) -> list[str]:
    asks = ["--improver-set", "first_wait=0", "--improver-set", f"parents={rule}", "--budget", "dollars=20"]
    if kind == "claude":
        return ["--improver", "claude", "--improver-set", f"base_url={server.url}", *asks]
    return ["--improver", "litellm:openai/any", "--improver-set", f"base_url={server.openai_url}", *PRICES, *asks]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-any")


def parents(server: ModelServer) -> list[str]:
    """Which agents each candidate of the second generation was to start from, as the model was told."""
    (first,) = {text for request in server.asked if (text := first_message(request)).startswith("Generation 1.")}
    return re.findall(r"agent ([0-9a-f]{12})\b", first.partition("\n")[0])


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("claude", "pareto"),
        pytest.param("claude", "keep-best", marks=pytest.mark.slow),
        pytest.param("claude", "puct", marks=pytest.mark.slow),
        pytest.param("litellm", "puct", marks=pytest.mark.slow),
        pytest.param("litellm", "keep-best", marks=pytest.mark.slow),
        pytest.param("litellm", "pareto", marks=pytest.mark.slow),
    ],
)
def test_a_generation_has_two_candidates_that_start_where_the_rule_says(
    sums: Path, tmp_path: Path, kind: str, rule: str
) -> None:
    with ModelServer(play) as server:
        report = finished([*command(sums, tmp_path), *options(kind, server, rule)])
    assert len(server.asked) == CALLS
    assert "It must run before it can be tried" in server.asked[1].text
    rows = report["generations"]
    assert [row["name"] for row in rows[:2]] == ["minus", "times"]
    minus, times = (row["agent"] for row in rows[:2])
    begun = parents(server)
    assert [row["parent"] for row in rows[2:]] == begun
    match rule:
        case "keep-best":
            assert begun == [minus, minus]
        case "pareto":
            assert set(begun) <= {minus, times}
        case "puct":
            assert begun == [minus, times]
    assert report["sealed"]["final"]["value"] == 1.0
    assert report["triage"] == {"checked": 5, "not_running": 1, "refused": 0, "failed": 0, "screened": 0, "compared": 4}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "calls"), [("claude", range(CALLS)), ("litellm", (2, 5))])
def test_killed_at_each_call_and_resumed_the_same_candidates_are_tried_and_one_call_at_most_is_made_twice(
    sums: Path, tmp_path: Path, kind: str, calls: Any
) -> None:
    check_killed_at_calls(calls, play, CALLS, sums, tmp_path, lambda server: options(kind, server, "puct"))
