"""The engine against a stand-in of vLLM's HTTP interface: adapters by name, completions of ids, one that lies."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import ModelError, SiaError, TrainingError, UsageError
from sia_core.learning import Engine, Request, Trace
from sia_runtime.worker.gateway import Gateway
from sia_testing.engines import ScriptedEngine
from sia_vllm.engine import Vllm, open_engine
from sia_vllm.settings import Settings

STOP = 256


def logprob(token: int, steps: int) -> float:
    """Of any token in any place, by weights of this many steps."""
    return -1.0 - (token % 7) / 10 - steps / 4


class Trainer(ScriptedEngine):
    """An engine whose log-probabilities follow its steps."""

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        steps = 0 if reference else self.steps
        return [
            [logprob(token, steps) if entry else 0.0 for token, entry in zip(trace.tokens, trace.mask, strict=True)]
            for trace in traces
        ]


@dataclass
class Stand:
    """A server's state. One that ``drops`` answers with its base, whatever adapter it says that it has."""

    drops: bool = False
    most_rank: int = 8
    rank: int = 8
    old: bool = False
    longest: Any = None
    adapters: dict[str, int] = field(default_factory=dict)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.adapters:
                return 400, {"message": f"{body['lora_name']} has already been loaded"}
            if not Path(body["lora_path"]).is_absolute():
                return 404, {"message": f"No adapter found for {body['lora_path']}"}
            if self.rank > self.most_rank:
                return 400, {"message": f"LoRA rank {self.rank} is greater than max_lora_rank {self.most_rank}"}
            steps = int((Path(body["lora_path"]) / "steps").read_text())
            self.adapters[body["lora_name"]] = 0 if self.drops else steps
            return 200, "Success"
        if path == "/v1/unload_lora_adapter":
            return (200, "Success") if self.adapters.pop(body["lora_name"], None) is not None else (404, "not found")
        if body["model"] not in self.adapters:
            return 404, {"message": f"no model {body['model']}"}
        self.asked.append(body)
        return 200, {"choices": [self._choice(body, self.adapters[body["model"]])]}

    def _choice(self, body: Mapping[str, Any], steps: int) -> dict[str, Any]:
        if "prompt_logprobs" in body:
            rows = [{str(each): {"logprob": logprob(each, steps)}} for each in body["prompt"]]
            return {"text": "", "finish_reason": "length", "prompt_logprobs": [None, *rows[1:]]}
        drawn = random.Random(body["seed"]).choices(range(97, 123), k=body["max_tokens"] - 1)
        ids = [*drawn, STOP]
        return {
            "text": bytes(drawn).decode(),
            "finish_reason": "stop",
            "token_ids": None if self.old else ids,
            "logprobs": {"token_logprobs": [logprob(each, steps) for each in ids]},
        }


@pytest.fixture
def stand() -> Iterator[Stand]:
    state = Stand()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "toy", "max_model_len": state.longest}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*state.answer(self.path, body))

        def _send(self, status: int, reply: Any) -> None:
            text = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of many threads at once, the usual five refuse some on a busy machine

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def engine(stand: Stand, tmp_path: Path) -> Iterator[Vllm]:
    engine = open_vllm(stand, tmp_path)
    yield engine
    engine.close()


def open_vllm(stand: Stand, adapters: Path | str, **settings: Any) -> Vllm:
    servers = f"{stand.url},{stand.url}/"
    return Vllm(Trainer(), Settings(policy="hf:toy", servers=servers, model="toy", adapters=adapters, **settings))


def ask(engine: Vllm, *seeds: int) -> Any:
    return engine.sample([Request([65, 66, 67], seeds or (1, 2, 3), max_tokens=6)])[0]


def test_it_is_an_engine_that_can_what_its_trainer_can_but_for_values_and_constraints(engine: Vllm) -> None:
    assert isinstance(engine, Engine)
    assert engine.can == {"train", "reference", "custom_loss"}
    with pytest.raises(TrainingError, match="cannot constrain"):
        engine.sample([Request([1], [0], choices=["a", "b"])])


def test_what_is_sampled_has_the_servers_ids_and_log_probabilities_and_depends_on_its_seed(engine: Vllm) -> None:
    one, two, three = ask(engine)
    assert ask(engine, 2)[0] == two
    assert one.tokens != three.tokens
    assert one.tokens[-1] == STOP
    assert one.finish == "stop"
    assert one.logprobs == [logprob(each, 0) for each in one.tokens]
    assert engine.tokens.decode(one.tokens) == one.text


def test_many_threads_sample_at_once_and_one_of_them_loads_the_adapter(engine: Vllm, stand: Stand) -> None:
    alone = [ask(engine, seed)[0] for seed in range(16)]
    engine.optim_step()
    engine.optim_step()
    with ThreadPoolExecutor(engine.at_once) as threads:
        together = list(threads.map(lambda seed: ask(engine, seed)[0], range(16)))
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert len(stand.adapters) == 1
    assert sum("prompt_logprobs" in body for body in stand.asked) == 2 * 2  # by adapter and server, and not by thread
    assert all(each.logprobs[0] == logprob(each.tokens[0], 2) for each in together)


def test_after_a_step_the_new_adapter_is_loaded_by_name_and_the_old_one_forgotten(
    engine: Vllm, stand: Stand, tmp_path: Path
) -> None:
    ask(engine)
    (first,) = stand.adapters
    engine.optim_step()
    sampled = ask(engine)[0]
    (second,) = stand.adapters
    assert second != first
    assert sampled.logprobs[0] == logprob(sampled.tokens[0], 1)
    assert [each.name for each in tmp_path.iterdir()] == [second]
    engine.close()
    assert not stand.adapters


def test_a_server_that_drops_the_adapter_is_noticed_before_anything_is_sampled_from_it(
    engine: Vllm, stand: Stand
) -> None:
    stand.drops = True
    ask(engine)  # the base: nothing to drop yet
    engine.optim_step()
    before = len(stand.asked)
    with pytest.raises(ModelError, match=r"trainer disagree: log-probabilities differ by 0\.25 nats"):
        ask(engine)
    assert not [each for each in stand.asked[before:] if "prompt_logprobs" not in each]


def test_an_adapter_that_was_not_the_trainers_is_unloaded_so_that_no_later_run_samples_from_it(
    engine: Vllm, stand: Stand, tmp_path: Path
) -> None:
    ask(engine)
    (first,) = stand.adapters
    stand.drops = True
    engine.optim_step()
    with pytest.raises(ModelError, match="disagree"):
        ask(engine)
    assert [*stand.adapters] == [first]
    assert [each.name for each in tmp_path.iterdir()] == [first]
    stand.drops = False  # as after it was mended
    assert ask(engine)[0].logprobs[0] == logprob(ask(engine)[0].tokens[0], 1)


def refused(engine: Vllm) -> ModelError:
    """The error that ends a run whose rollout asks this engine."""
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    gateway.answer("r", {"messages": [{"role": "user", "content": "?"}]})
    with pytest.raises(ModelError) as failure:
        gateway.finish("r")
    gateway.close()
    return failure.value


def test_what_keeps_an_adapter_from_being_sampled_ends_the_run_and_is_said_as_it_is(engine: Vllm, stand: Stand) -> None:
    stand.rank = 32
    assert "LoRA rank 32 is greater than max_lora_rank 8" in str(refused(engine))
    stand.rank = 8
    ask(engine)
    engine.optim_step()
    stand.drops = True
    assert "disagree" in str(refused(engine))
    assert "--engine-set tolerance" in str(refused(engine))


def test_a_relative_folder_of_adapters_is_told_to_servers_by_its_whole_path(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = open_vllm(stand, "adapters")
    assert ask(engine)
    engine.close()


def test_the_tolerance_is_that_of_what_is_trained_on_too(stand: Stand, tmp_path: Path) -> None:
    trace = Trace([1, 2], [0, 1], [0.0, logprob(2, 0) + 0.1])
    wide, narrow = (open_vllm(stand, tmp_path, tolerance=each) for each in (0.2, 0.05))
    assert wide.check([trace]) == pytest.approx(0.1)
    assert wide.check([]) == 0
    with pytest.raises(TrainingError, match=r"at most 0\.05 .* are rounding; .*--engine-set tolerance"):
        narrow.check([trace])


def test_a_server_that_is_gone_keeps_no_run_from_ending(engine: Vllm, stand: Stand, monkeypatch: Any) -> None:
    ask(engine)
    monkeypatch.setattr(stand, "answer", lambda path, body: (503, "shutting down"))
    engine.close()


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (500, "out of memory"),
        (503, "loading"),
        (401, {"error": "no key"}),
        (404, {"error": "no such model"}),
        (200, "<html>sign in</html>"),
        (200, ""),
        (200, '{"choices": [{"ind'),
        (200, {"error": {"message": "overloaded"}}),
        (200, {"choices": []}),
        (200, {"choices": None}),
        (200, [1]),
    ],
)
def test_what_is_no_completion_stops_the_run_and_is_no_failure_of_an_agent(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch, status: int, reply: Any
) -> None:
    ask(engine)
    monkeypatch.setattr(stand, "answer", lambda path, body: (status, reply))
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    assert "error" in gateway.answer("r", {"messages": [{"role": "user", "content": "?"}]})
    with pytest.raises(ModelError, match="sia resume"):
        gateway.finish("r")
    gateway.close()


GOOD = {"text": "a", "finish_reason": "stop", "token_ids": [97, STOP], "logprobs": {"token_logprobs": [-1.0, 0.0]}}


def sampled(*ids: Any) -> dict[str, Any]:
    return {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}


def given(*logprobs: Any) -> dict[str, Any]:
    return {"logprobs": {"token_logprobs": logprobs}}


@pytest.mark.parametrize(
    "change",
    [
        *({"text": each} for each in (None, {"error": "overloaded"}, 5)),
        *({"finish_reason": each} for each in (None, "abort", ["stop"])),
        *({"logprobs": each} for each in (5, {}, [1])),
        *({"token_ids": each} for each in ("ab", 5, {}, [97])),
        *(sampled(*each) for each in ((), [97] * 9, ("a",), (-1,), (10**20,), (True,), (1.0,), (300,))),
        *(given(*each, 0.0) for each in ((), ("1",), (None,), (True,), (7,), (-(10**400),), (float("nan"),))),
        *(given(each, 0.0) for each in (float("inf"), float("-inf"))),
    ],
    ids=str,
)
def test_a_reply_that_the_server_did_not_sample_so_stops_the_run_and_is_never_an_answer(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    ask(engine)
    choice = {**GOOD, **change}
    monkeypatch.setattr(stand, "answer", lambda path, body: (200, {"choices": [choice]}))
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    question = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 8}
    assert "error" in gateway.answer("r", question)
    with pytest.raises(ModelError, match="no completion"):
        gateway.finish("r")
    choice.update(GOOD)
    gateway.begin("r", 1)
    assert gateway.answer("r", question)["choices"][0]["message"]["content"] == "a"
    gateway.close()


def test_a_reply_without_a_text_is_none(engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(engine)
    choice = {name: value for name, value in GOOD.items() if name != "text"}
    monkeypatch.setattr(stand, "answer", lambda path, body: (200, {"choices": [choice]}))
    with pytest.raises(ModelError, match="there is no text"):
        ask(engine)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [None],
        {"66": {"logprob": -1.0}},
        *([None, row, row] for row in (None, {}, {"66": None}, {"66": {}}, {"66": {"logprob": "x"}})),
        [None, *({str(each): {"logprob": float("nan")}} for each in (66, 67))],
    ],
    ids=str,
)
def test_log_probabilities_of_a_prompt_that_are_none_are_the_servers_fault(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    plain = stand.answer

    def answer(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        asks = "prompt_logprobs" in body
        return (200, {"choices": [{"prompt_logprobs": rows}]}) if asks else plain(path, body)

    monkeypatch.setattr(stand, "answer", answer)
    assert "no completion" in str(refused_for(engine))


def refused_for(engine: Vllm) -> ModelError:
    with pytest.raises(ModelError) as failure:
        ask(engine)
    return failure.value


@pytest.mark.parametrize("status", [200, 500])
def test_what_has_no_end_is_not_read_for_ever(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("sia_vllm.server.MOST_BYTES", 2000)
    length: list[int] = []
    plain = HTTPResponse.read

    def read(self: HTTPResponse, amount: int | None = None) -> bytes:
        data = plain(self, amount)
        length.append(len(data))
        return data

    ask(engine)
    monkeypatch.setattr(HTTPResponse, "read", read)
    monkeypatch.setattr(stand, "answer", lambda path, body: (status, "x" * 100_000))
    assert ("more than 2,000 bytes" if status == 200 else "answered 500: xxx") in str(refused_for(engine))
    assert max(length) <= 2001


@pytest.mark.parametrize("text", ["[" * 200_000, json.dumps({"choices": [{}] * 3000})], ids=["deep", "many"])
def test_what_cannot_be_read_into_little_memory_is_no_completion(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    ask(engine)
    monkeypatch.setattr("sia_vllm.server.MOST_VALUES", 2000)
    monkeypatch.setattr(stand, "answer", lambda path, body: (200, text))
    assert re.search("nested too deep|more than 2,[0-9]+ values", str(refused_for(engine)))


def test_an_error_whose_body_is_cut_is_the_servers(engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: HTTPResponse, amount: int | None = None) -> bytes:
        raise IncompleteRead(b"")

    ask(engine)
    monkeypatch.setattr(HTTPResponse, "read", read)
    monkeypatch.setattr(stand, "answer", lambda path, body: (400, "too long"))
    assert "does not answer" in str(refused_for(engine))


@pytest.mark.parametrize("longest", ["5", [1], -5, True, 0, 1.5])
def test_a_context_that_is_no_number_of_tokens_is_not_known(engine: Vllm, stand: Stand, longest: Any) -> None:
    stand.longest = longest
    assert engine.context is None


def test_nor_is_one_that_is_nested_too_deep_to_be_read(engine: Vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_vllm.server._read", lambda reply: "[" * 200_000)
    assert engine.context is None


def test_a_servers_words_are_shown_in_one_printable_line(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(engine)
    monkeypatch.setattr(stand, "answer", lambda path, body: (500, "\x1b[2Jno\nmemory"))
    assert str(refused_for(engine)).isprintable()


def test_a_request_that_the_server_refuses_is_its_harnesss_own_fault(
    engine: Vllm, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(engine)
    monkeypatch.setattr(stand, "answer", lambda path, body: (400, {"error": "too long"}))
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    reply = gateway.answer("r", {"messages": [{"role": "user", "content": "?"}]})
    assert "too long" in reply["error"]["message"]
    gateway.finish("r")
    gateway.close()


def test_a_server_without_token_ids_is_too_old(engine: Vllm, stand: Stand) -> None:
    stand.old = True
    with pytest.raises(SiaError, match=r"from version 0\.10\.2 on"):
        ask(engine)


def test_a_server_that_is_not_there_says_so(stand: Stand, tmp_path: Path) -> None:
    options = Settings(policy="p", servers="http://127.0.0.1:9", model="toy", adapters=str(tmp_path), timeout=1.0)
    with pytest.raises(SiaError, match="does not answer"):
        ask(Vllm(Trainer(), options))


def test_its_context_is_the_least_that_a_server_says(engine: Vllm, stand: Stand) -> None:
    stand.longest = 12
    gateway = Gateway(engine)
    gateway.begin("r", 1)
    error = gateway.answer("r", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5})["error"]
    gateway.close()
    assert (error["code"], "12 tokens" in error["message"]) == ("context_length_exceeded", True)
    assert not stand.asked


def test_settings_that_it_does_not_know_are_the_trainers() -> None:
    options = Settings.model_validate({"policy": "p", "servers": "a", "model": "m", "adapters": "/x", "rank": "8"})
    assert options.for_trainer == {"policy": "p", "seed": 0, "temperature": 1.0, "rank": "8"}
    with pytest.raises(UsageError, match="no engine named 'nothing'"):
        open_engine(policy="p", servers="a", model="m", adapters="/x", trainer="nothing")
