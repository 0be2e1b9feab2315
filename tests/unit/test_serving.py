"""The endpoint of a served agent: what it takes for a question, how it answers, and whom it refuses."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest

from sia_core.serving import Agent, Refused, Served, events, question, reply, server

ABOUT = Served("agent-1", "agent", "h" * 64, None, "namespaces")
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


class Echo:
    """An agent that answers what it is asked, and fails when told to."""

    about = ABOUT

    def answer(self, given: Mapping[str, Any]) -> str:
        if given == {"text": "fail"}:
            raise Refused(500, "the agent failed: timeout")
        return json.dumps(given["text"])


@contextmanager
def serving(token: str | None = None) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """``ask(body, path, **headers)`` of a server: the status and what it says."""
    found = server(cast(Agent, Echo()), "127.0.0.1", 0, token)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def ask(body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict[str, Any]]:
        told = {"content-type": "application/json", **{key.replace("_", "-"): each for key, each in headers.items()}}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{found.server_address[1]}{path}", content, told)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    try:
        yield ask
    finally:
        found.shutdown()
        found.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("content", "given"),
    [
        ("two plus three", {"text": "two plus three"}),
        ('{"fact": "x", "n": 1}', {"fact": "x", "n": 1}),
        ("[1, 2]", {"text": "[1, 2]"}),
        ("7", {"text": "7"}),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {"text": "ab"}),
    ],
)
def test_the_last_message_is_the_question(content: Any, given: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": content}]
    assert question(json.dumps({"model": "any", "messages": messages}).encode()) == (given, False)


def test_a_stream_is_asked_for() -> None:
    assert question(json.dumps({**HELLO, "stream": True}).encode()) == ({"text": "hello"}, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"messages": []}',
        b'{"messages": "hello"}',
        b'{"messages": [{"content": 1}]}',
        b'{"messages": [{"content": [{"type": "image_url"}]}]}',
        b'{"messages": [{"content": "x"}], "n": 2}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_question_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        question(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(("answer", "content"), [('"theft"', "theft"), ("5", "5"), ('{"a": [1]}', '{"a": [1]}')])
def test_an_answer_is_a_text_as_it_is_and_anything_else_as_json(answer: str, content: str) -> None:
    told = reply(ABOUT, answer)
    assert (told["model"], told["choices"][0]["message"]["content"]) == ("agent-1", content)


def test_it_answers_in_the_shape_of_the_api() -> None:
    with serving() as ask:
        status, told = ask(HELLO)
        assert (status, told["choices"][0]["message"]) == (200, {"role": "assistant", "content": "hello"})
        assert ask(None, "/v1/models")[1]["data"][0]["id"] == "agent-1"
        assert ask(None, "/")[0] == ask(HELLO, "/v1/embeddings")[0] == 404
        failed = ask({"messages": [{"role": "user", "content": "fail"}]})
        assert failed == (500, {"error": {"message": "the agent failed: timeout", "type": "invalid_request_error"}})


def test_a_client_that_wants_a_stream_gets_the_answer_in_one_event() -> None:
    *chunks, last, rest = events(reply(ABOUT, '"theft"')).split(b"\n\n")
    said = [json.loads(chunk.removeprefix(b"data: "))["choices"][0] for chunk in chunks]
    assert [(each["delta"].get("content"), each["finish_reason"]) for each in said] == [("theft", None), (None, "stop")]
    assert (last, rest) == (b"data: [DONE]", b"")


def test_a_web_page_cannot_ask_it_by_another_name_or_without_being_asked_for() -> None:
    with serving() as ask:
        assert ask(HELLO, host="evil.example")[0] == 421
        assert ask(HELLO, host="localhost:8643")[0] == 200
        assert ask(HELLO, content_type="text/plain")[0] == 415


def test_from_elsewhere_only_the_key_opens_it() -> None:
    with serving("a-key") as ask:
        assert ask(HELLO, host="10.0.0.1")[0] == 401
        assert ask(HELLO, host="10.0.0.1", authorization="Bearer another")[0] == 401
        assert ask(HELLO, host="10.0.0.1", authorization="Bearer a-key")[0] == 200


def test_a_body_without_end_is_not_read() -> None:
    with serving() as ask:
        assert ask(HELLO, content_length="99999999999")[0] == 413
