"""``sia doctor --servers`` against stand-ins: abilities that a server has, lacks, or only claims to have."""

from __future__ import annotations

import io
import json
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError

import pytest

from sia_cli import main
from sia_cli.servers import ABILITIES, USES, examine

Answer = Callable[[str, Mapping[str, Any]], tuple[int, Any]]

MODELS = {"data": [{"id": "m", "max_model_len": 4096}]}
COUNT = "one two three four"


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server that answers a path and a body with a status and JSON, or a text; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, body: Mapping[str, Any]) -> None:
            status, reply = answer(self.path, body)
            content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def able(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """As vLLM answers."""
    if path == "/v1/models":
        return 200, MODELS
    if path == "/v1/load_lora_adapter":
        return 400, {"error": {"message": "lora_name is missing"}}
    if path == "/v1/completions":
        return 200, {"choices": [{"token_ids": [1], "prompt_logprobs": [None, {}], "logprobs": {"tokens": ["a"]}}]}
    if path != "/v1/chat/completions":
        return 404, {"detail": "Not Found"}
    if body.get("stream"):
        return 200, 'data: {"choices": []}\n\ndata: {"usage": {"completion_tokens": 4}}\n\ndata: [DONE]\n\n'
    text = COUNT
    for stop in body.get("stop", ()):
        text = text.split(stop)[0]
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": "one", "logprob": -0.5}]}
    if body.get("tools"):
        choice["message"]["tool_calls"] = [{"id": "a", "function": {"name": "add", "arguments": "{}"}}]
    return 200, {"choices": [choice] * body.get("n", 1)}


def plain(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """As a server answers that takes every setting and heeds none."""
    if path == "/v1/models":
        return 200, {"data": [{"id": "m"}]}
    if path == "/v1/chat/completions":
        return 200, {"choices": [{"message": {"role": "assistant", "content": COUNT}}]}
    return 404, "<!doctype html>"


def abilities(answer: Answer) -> set[str]:
    with serving(answer) as url:
        return {name for name, there in examine(url).can.items() if there}


def test_a_server_that_can_do_all_is_found_to() -> None:
    with serving(able) as url:
        report = examine(f"{url}/v1/")
    assert {name for name, there in report.can.items() if there} == ABILITIES.keys() - {"tinker"}
    assert (report.model, report.context) == ("m", 4096)
    works = {each["use"]: each["option"] for each in report.to_json()["uses"] if each["works"]}
    assert works["rollouts for training weights"] == f"--engine vllm --engine-set servers={url} --engine-set model=m"
    assert works["the improver"] == f"--improver litellm:openai/m --improver-set base_url={url}/v1"


def test_a_setting_that_is_taken_and_not_heeded_is_no_ability() -> None:
    assert abilities(plain) == {"chat"}


def test_a_server_of_the_tinker_api_is_known_by_its_capabilities() -> None:
    def answer(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        return (200, {"supported_models": []}) if path == "/api/v1/get_server_capabilities" else (404, {})

    assert abilities(answer) == {"tinker"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda path, body: (401, {"error": {"message": "no"}}), "it wants a key"),
        (lambda path, body: (503, {"error": {"message": "Loading model"}}), "status 503: Loading model"),
        (lambda path, body: (200, "[" * 100_000), "lists no models"),
        (lambda path, body: (200, {"data": [7, None]}), "lists no models"),
        (lambda path, body: (200, MODELS if path == "/v1/models" else {"choices": [7]}), "no completion"),
        (lambda path, body: (200, MODELS if path == "/v1/models" else {"choices": {"a": 1}}), "no completion"),
    ],
)
def test_one_with_which_nothing_works_says_why_whatever_it_sends(answer: Answer, why: str) -> None:
    with serving(answer) as url:
        report = examine(url)
    assert not any(report.can.values())
    assert why in report.why["chat"]


def test_the_command_prints_abilities_and_options_and_fails_where_nothing_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def hostile(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        return 500, {"error": {"message": "\x1b[2Jgone"}}

    with serving(plain) as url:
        assert main(["doctor", "--servers", url]) == 0
        output = capsys.readouterr().out
        assert "no  calls a tool: it takes tools, but the model called none" in output
        assert "the improver: no, it lacks tools" in output
        assert f"--engine litellm --policy openai/m --engine-set base_url={url}/v1" in output.replace("\n", "")
        with serving(hostile) as broken:
            assert main(["doctor", "--json", "--servers", url, broken]) == 1
            able, unable = json.loads(capsys.readouterr().out)
            assert main(["doctor", "--servers", broken]) == 1
    assert (able["can"]["chat"], unable["can"]["chat"]) == (True, False)
    assert "\x1b" not in capsys.readouterr().out


def test_a_models_name_is_one_word_of_an_option_and_no_line_of_the_report() -> None:
    name = "m'; touch ~/gone #\n  the improver: yes"

    def hostile(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        status, reply = able(path, body)
        return status, {"data": [{"id": name}]} if path == "/v1/models" else reply

    with serving(hostile) as url:
        report = examine(url)
    option = report.option(USES[0])
    assert shlex.split(option)[3] == "openai/m'; touch ~/gone # the improver: yes"
    assert shlex.split(option)[4:] == ["--engine-set", f"base_url={url}/v1"]


def test_half_an_error_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(HTTPError):
        def read(self, *_: Any) -> bytes:
            raise IncompleteRead(b"ha")

    def opened(request: Any, timeout: float) -> Any:
        raise Half(request.full_url, 500, "", Message(), io.BytesIO())

    monkeypatch.setattr("urllib.request.urlopen", opened)
    assert "no answer" in examine("http://localhost:1").why["chat"]


def test_where_nothing_listens_it_says_so() -> None:
    with serving(plain) as url:
        pass
    assert "no answer" in examine(url).why["chat"]


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://", "http://a:b@host", "http://host:x"])
def test_what_is_no_address_is_a_mistake_of_the_users(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--servers", address]) == 2
    assert "--servers" in capsys.readouterr().err
