"""A real server of a real model: llama.cpp with SmolLM2 as the hosted policy of runs, and of single calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_runs import comparable
from inference_servers import InferenceServer
from llama_server import CONTEXT, Relay, llama_server, model

from sia_cli import main
from sia_core.errors import UsageError
from sia_litellm.policy import Served
from sia_llm.hosted_policy import HostedGateway

# litellm leaves clients and an event loop to the garbage collector, and uses what pydantic has deprecated.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

HARNESS = """\
def solve(instance, ctx):
    reply = ctx.model([{"role": "user", "content": instance.input["text"]}], temperature=0, max_tokens=6, stop=["."])
    return str(len(reply["choices"][0]["message"]["content"]) % 2)
"""
"""Its reward depends on every reply, whatever so small a model knows."""

CASES = 12


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's server as a package, is not installed")
    try:
        return model(tmp_path_factory.mktemp("model"))
    except UsageError as error:
        pytest.skip(f"SmolLM2 is not there: {error}")


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[InferenceServer]:
    with llama_server(gguf) as running:
        yield running


@pytest.fixture
def gateway(server: InferenceServer, tmp_path: Path) -> Iterator[HostedGateway]:
    engine = Served("openai/smollm2", base_url=f"{server.url}/v1")
    gateway = HostedGateway(engine, tmp_path / "policy")
    gateway.begin("one", 0)
    yield gateway
    gateway.close()


def ask(gateway: HostedGateway, text: str = "Name two colors.", **more: Any) -> Any:
    messages = more.pop("messages", [{"role": "user", "content": text}])
    return gateway.ask("one", {"messages": messages, "temperature": 0, "max_tokens": 6, **more}).result()


def said(reply: Any) -> list[str]:
    return [each["message"]["content"] for each in reply["choices"]]


def test_a_run_whose_server_is_killed_and_started_again_ends_with_the_report_of_one_without(
    server: InferenceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "harness.py").write_text(HARNESS)
    rows = [{"input": f"Say the number {number}.", "answer": str(number % 2)} for number in range(CASES)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def started(name: str, url: str) -> int:
        command = ["run", "--harness", "agent", "--data", "cases.jsonl", "--verifier", "exact", "--generations", "0"]
        command += ["--policy", "openai/smollm2", "--engine", "litellm", "--engine-set", f"base_url={url}"]
        command += ["--engine-set", "tries=1", "--runs-dir", "runs", "--name", name, "--json"]
        return main(command)

    with Relay(server) as relay:
        assert started("whole", relay.url) == 0
        whole = json.loads(capsys.readouterr().out)
        relay.last = len(relay.asked) + CASES // 2
        assert started("killed", relay.url) != 0
        assert "sia resume" in capsys.readouterr().err
        before = len(relay.asked)
        server.start()
        assert main(["resume", "killed", "--runs-dir", "runs", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert comparable(resumed) == comparable(whole)
    assert 0 < whole["sealed"]["initial"]["value"] < 1
    assert before < len(relay.asked)
    assert all(each["stop"] == ["."] and each["stream"] for each in relay.asked)


def test_a_reply_ends_at_its_stop_and_nothing_behind_it_is_paid_for(gateway: HostedGateway) -> None:
    whole = ask(gateway, max_tokens=12)
    text = said(whole)[0]
    word = text.split()[2]
    cut = ask(gateway, max_tokens=12, stop=[word])
    assert said(cut) == [text.split(word)[0]]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]


def test_several_replies_are_one_call_and_their_prompt_is_counted_once(gateway: HostedGateway) -> None:
    one, three = ask(gateway), ask(gateway, n=3)
    assert said(three) == said(one) * 3
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


def test_more_replies_than_the_server_has_slots_are_calls_of_their_own(gateway: HostedGateway) -> None:
    assert len(set(said(ask(gateway, n=6)))) == 1


def test_log_probabilities_are_those_of_the_reply(gateway: HostedGateway) -> None:
    (choice,) = ask(gateway, logprobs=True)["choices"]
    rows = choice["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == choice["message"]["content"]
    assert all(row["logprob"] < 0 for row in rows)


def test_results_of_tools_are_read_by_the_model(gateway: HostedGateway) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Rome"}'}}
    messages = [
        {"role": "user", "content": "How is the weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
    ]
    with_result = ask(gateway, messages=messages, tools=tools)
    assert said(with_result)[0]
    longer = [*messages[:2], {**messages[2], "content": "It rains. " * 20}]
    assert ask(gateway, messages=longer, tools=tools)["usage"]["prompt_tokens"] > (
        with_result["usage"]["prompt_tokens"] + 40
    )


def test_a_conversation_that_is_longer_than_the_context_is_told_by_its_code(gateway: HostedGateway) -> None:
    error = ask(gateway, "word " * 2 * CONTEXT)["error"]
    assert error["code"] == "context_length_exceeded"
    assert said(ask(gateway))[0]


def test_the_doctor_says_what_of_sia_works_with_it(server: InferenceServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--servers", f"{server.url}/v1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    able = {name for name, there in row["can"].items() if there}
    assert able - {"tools"} == {"chat", "streaming", "stop", "n", "logprobs"}
    assert row["context"] == CONTEXT
    works = {each["use"]: each["works"] for each in row["uses"]}
    assert works["the model that harnesses ask"]
    assert not works["rollouts for training weights"]
