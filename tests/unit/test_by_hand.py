"""A person plays the model: requests are read, and answered, as files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from sia_testing.by_hand import Table, main
from sia_testing.model_server import Asked, ModelServer

pytestmark = pytest.mark.real  # the OpenAI client starts a process to learn on which system it runs

TOOL = {"name": "read_file", "description": "Lines of a file.", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    closing = threading.Event()
    table = Table(tmp_path)
    with ModelServer(lambda request: table.answered(request, closing)) as server:
        yield server
        closing.set()


def chat(server: ModelServer, *more: Any) -> Any:
    system = {"role": "system", "content": "the rules"}
    messages = [system, {"role": "user", "content": "the evidence"}, *more]
    with OpenAI(base_url=server.openai_url, api_key="any", max_retries=0) as client:
        tools: Any = [{"type": "function", "function": TOOL}]
        return client.chat.completions.create(model="by-hand", messages=messages, tools=tools).choices[0].message


def played(folder: Path, **reply: Any) -> None:
    file = folder.with_name(f"{folder.name}.reply")
    file.write_text(json.dumps(reply))
    assert main(["reply", str(folder), str(file)]) == 0


def test_the_first_request_is_shown_whole_and_later_ones_from_the_last_reply_on(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor() as threads:
        first = threads.submit(chat, server)
        assert main(["next", str(tmp_path)]) == 0
        output = capsys.readouterr().out
        assert all(part in output for part in ("# Request 0001", "the rules", "read_file", "the evidence"))
        played(tmp_path, text="I look.", uses=[{"name": "read_file", "arguments": {"path": "a"}}])
        message = first.result()
        call = message.tool_calls[0]
        assert (message.content, call.function.name, call.function.arguments) == (
            "I look.",
            "read_file",
            '{"path": "a"}',
        )
        gave = {"role": "tool", "tool_call_id": call.id, "content": "line 1"}
        second = threads.submit(chat, server, message.model_dump(exclude_none=True), gave)
        main(["next", str(tmp_path)])
        output = capsys.readouterr().out
        assert "line 1" in output
        assert "the rules" not in output
        played(tmp_path, text="thanks")
        assert second.result().content == "thanks"


def test_a_client_of_the_messages_protocol_is_answered_too(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask() -> Any:
        with Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": [{"type": "text", "text": "the evidence"}]}]
            return client.messages.create(model="by-hand", max_tokens=9, system="the rules", messages=messages).content

    with ThreadPoolExecutor() as threads:
        future = threads.submit(ask)
        main(["next", str(tmp_path)])
        assert "the rules" in (output := capsys.readouterr().out)
        assert "the evidence" in output
        played(tmp_path, text="thanks")
        assert future.result()[0].text == "thanks"


def test_a_reply_that_was_written_while_no_server_ran_answers_the_request_when_it_comes_again(tmp_path: Path) -> None:
    request, closed = Asked(0, "/v1/chat/completions", {}, {"messages": []}), threading.Event()
    closed.set()
    Table(tmp_path).answered(request, closed)
    played(tmp_path, text="later")
    assert Table(tmp_path).answered(request, threading.Event()).text == "later"
    assert len(list(tmp_path.glob("*.request.json"))) == 1


def test_a_request_steers_no_terminal_and_shows_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = threading.Event()
    closed.set()
    messages = [{"role": "user", "content": "\x1b[2J\ud800 so"}, {"role": "user"}, {"role": "user", "content": [1, {}]}]
    Table(tmp_path).answered(Asked(0, "/v1/chat/completions", {}, {"messages": messages}), closed)
    main(["next", str(tmp_path)])
    output = capsys.readouterr().out
    assert "\\x1b[2J? so" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("reply", "why"),
    [("{", "Invalid JSON"), ('{"uses": [{}]}', "uses.0.name"), ('{"said": 1}', "said"), ("{}", "no request waits")],
)
def test_what_is_no_reply_is_refused_with_the_reason(
    tmp_path: Path, reply: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reply.json"
    file.write_text(reply)
    with pytest.raises(SystemExit, match="2"):
        main(["reply", str(tmp_path / "table"), str(file)])
    assert why in capsys.readouterr().err
