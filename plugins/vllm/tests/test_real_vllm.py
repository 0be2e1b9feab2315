"""The engine against vLLM itself with a toy model: its numbers, adapters by name, and a run whose server is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_runs import finished
from inference_servers import InferenceServer, check_resumed, environment, toy_model, written_run

from sia_core.errors import ModelError, TrainingError
from sia_core.learning import Datum, Request, Trace
from sia_testing.engine_contract import LOSS
from sia_vllm.engine import Vllm, open_engine

pytestmark = [pytest.mark.real, pytest.mark.slow]

RANK = 8
GAPS = {"float32": 1e-4, "bfloat16": 0.06}
"""How far log-probabilities of vLLM and the torch engine may lie apart on the mean, by number type."""

Open = Callable[..., Vllm]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment("vllm")
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module", params=GAPS)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(model: Path, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    options = ["--enable-lora", "--max-lora-rank", str(RANK), "--dtype", dtype, "--max-model-len", "512"]
    options += ["--max-num-seqs", "64", "--host", "127.0.0.1", "--port", "PORT", "--served-model-name", "toy"]
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
    variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # it would keep a core to itself
    command = [str(environment("vllm") / "bin" / "vllm"), "serve", str(model), *options]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with InferenceServer(command, "/v1/models", log, variables) as running:
        yield running


def settings(server: InferenceServer, model: Path, dtype: str, adapters: Path) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": server.url,
        "model": "toy",
        "adapters": str(adapters),
        "dtype": dtype,
        "rank": RANK,
    }
    return options


@pytest.fixture
def engines(server: InferenceServer, model: Path, dtype: str, tmp_path: Path) -> Iterator[Open]:
    opened: list[Vllm] = []

    def engine(**more: Any) -> Vllm:
        options = settings(server, model, dtype, tmp_path / "adapters")
        opened.append(open_engine(policy=f"hf:{model}", **{**options, **more}))
        return opened[-1]

    yield engine
    for each in opened:
        each.close()


def sampled(engine: Vllm) -> list[Trace]:
    prompts = [engine.tokens.encode(text) for text in ("a red one", "the other", "how many of them are there?")]
    rows = engine.sample([Request(prompt, range(4), max_tokens=12) for prompt in prompts])
    return [each.trace(prompt) for prompt, row in zip(prompts, rows, strict=True) for each in row]


def names(server: InferenceServer) -> list[str]:
    return [each["id"] for each in server.ask("/v1/models")["data"]]


def test_what_it_samples_is_the_trainers_before_an_update_and_after(
    engines: Open, server: InferenceServer, dtype: str
) -> None:
    engine = engines()
    assert engine.context == 512
    traces = sampled(engine)
    assert sampled(engine)[0].tokens == traces[0].tokens
    assert engine.check(traces) < GAPS[dtype]
    for _ in range(3):
        engine.forward_backward([Datum(each, [float(place) for place in each.mask], 12.0) for each in traces], LOSS)
        engine.optim_step(lr=5e-3)
    with pytest.raises(TrainingError, match="the servers and the trainer disagree"):
        engine.check(traces)  # of other weights
    assert engine.check(sampled(engine)) < GAPS[dtype]
    assert len(names(server)) == 2
    engine.close()
    assert names(server) == ["toy"]


def test_an_adapter_of_too_high_a_rank_is_told_as_such(engines: Open, server: InferenceServer) -> None:
    with pytest.raises(ModelError, match="rank"):
        sampled(engines(rank=2 * RANK))
    assert names(server) == ["toy"]


def test_a_server_that_computes_something_else_is_noticed_and_keeps_nothing(
    engines: Open, server: InferenceServer
) -> None:
    engine = engines(tolerance=1e-9)
    with pytest.raises(ModelError, match="and the trainer disagree"):
        sampled(engine)
    assert names(server) == ["toy"]


def test_a_run_whose_server_is_killed_is_resumed_to_the_same_report(
    server: InferenceServer, model: Path, dtype: str, tmp_path: Path
) -> None:
    command = [*written_run(tmp_path), "--engine", "vllm", "--policy", f"hf:{model}"]
    options = settings(server, model, dtype, tmp_path / "adapters")
    command += [part for name, value in options.items() for part in ("--engine-set", f"{name}={value}")]
    whole = finished([*command, "--name", "whole"])
    if dtype == "float32":  # in bfloat16 what is sampled depends on what else is asked at the same time
        check_resumed(command, {}, tmp_path / "runs", whole, server)
