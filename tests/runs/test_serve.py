"""The best agent of a run behind its endpoint: asked by a client, in its sandbox, and refusing what it should."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_runs import Run
from openai import OpenAI

from sia_core.plugins import Plugins
from sia_core.serving import Agent, server

pytestmark = pytest.mark.real

KEY = "a-key"


@pytest.fixture
def url(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the endpoint of a run's agent; with a key where the test's parameter is one."""
    run("--generations", "2")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    token = getattr(request, "param", None)
    with Agent(tmp_path / "runs" / "agent-1", Plugins.discover()) as agent:
        found = server(agent, "127.0.0.1", 0, token)
        threading.Thread(target=found.serve_forever).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        found.server_close()
    after = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.suffix != ".db-shm"}.items() >= {
        path: content for path, content in before.items() if path.suffix != ".db-shm"
    }.items()


def asked(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and body that a request gets."""
    told = {"content-type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), told)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_client_asks_the_agent_as_it_asks_a_model(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    assert [model.id for model in client.models.list()] == ["agent-1"]
    question = json.dumps({"text": "two plus three"})
    answers = [
        client.chat.completions.create(model="agent-1", messages=[{"role": "user", "content": each}])
        for each in (question, "two plus three")
    ]
    first, second = (answer.choices[0].message.content for answer in answers)
    assert first == second == "5"


def test_what_is_no_question_is_refused(url: str) -> None:
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    assert asked(url, {"messages": []})[0] == 400
    assert asked(url, [])[0] == 400
    assert "stream" in asked(url, {**hello, "stream": True})[1]["error"]["message"]
    assert asked(url, hello, host="evil.example")[0] == 421
    assert asked(url, hello, content_type="text/plain")[0] == 415


@pytest.mark.parametrize("url", [KEY], indirect=True)
def test_from_elsewhere_only_the_key_opens_it(url: str) -> None:
    hello = {"messages": [{"role": "user", "content": "one plus one"}]}
    assert asked(url, hello, host="10.0.0.1")[0] == 401
    assert asked(url, hello, authorization=f"Bearer {KEY}", host="10.0.0.1")[0] == 200
