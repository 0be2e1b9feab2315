"""The engine against a real server of Tinker's protocol, SkyRL's, with a toy model; in float32, as that has no other.

Its protocol is JSON, which the SDK speaks before 0.38, so what asks it is a process that has such an SDK.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_runs import finished
from inference_servers import InferenceServer, check_resumed, environment, toy_model, written_run

pytestmark = [pytest.mark.real, pytest.mark.slow]

VERBS = """
import sys
from pathlib import Path

import tinker

from sia_core.learning import Datum, Request
from sia_testing.engine_contract import LOSS
from sia_tinker.engine import open_engine
from sia_torch.engine import Torch

assert tinker.__version__ == "0.24.1", tinker.__version__
model, url, folder = sys.argv[1:]
told = {"policy": model, "rank": 8}
engine = open_engine(**told, base_url=url)
prompts = [engine.tokens.encode(text) for text in ("a red one", "how many of them are there?")]


def sampled(engine):
    rows = engine.sample([Request(prompt, range(4), max_tokens=12) for prompt in prompts])
    return [each.trace(prompt) for prompt, row in zip(prompts, rows) for each in row]


def apart(rows, others):
    return max(abs(a - b) for row, other in zip(rows, others) for a, b in zip(row, other))


traces = sampled(engine)
assert sampled(engine) == traces
assert engine.check(traces) < 1e-5
before = engine.logprobs(traces)
assert apart(before, [each.logprobs for each in traces]) < 1e-4
base = Torch(policy=f"hf:{model}", dtype="float32", temperature=1.0)
assert apart(before, base.logprobs(traces)) < 1e-4
engine.forward_backward([Datum(each, [float(place) for place in each.mask], 12.0) for each in traces], LOSS)
engine.optim_step(lr=5e-3)
after = engine.logprobs(traces)
assert apart(after, before) > 1e-3
assert apart(engine.logprobs(traces, reference=True), before) < 1e-4
assert engine.check(sampled(engine)) < 1e-5
engine.save(Path(folder))
engine.forward_backward([Datum(each, [float(place) for place in each.mask], 12.0) for each in traces], LOSS)
engine.optim_step(lr=5e-3)
engine.load(Path(folder))
assert apart(engine.logprobs(traces), after) < 1e-5
for _ in range(10):  # more than the server has places
    engine.close()
    engine = open_engine(**told, base_url=url)
engine.close()
print("all of it")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment("skyrl")
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    program, folder = Path(__file__).with_name("skyrl_server.py"), tmp_path_factory.mktemp("skyrl")
    command = [str(environment("skyrl") / "bin" / "python"), str(program), str(model), str(folder), "PORT"]
    with InferenceServer(command, "/api/v1/healthz", folder / "log", {"JAX_PLATFORMS": "cpu"}) as running:
        yield running


@pytest.fixture(scope="module")
def asking() -> dict[str, str]:
    """The environment of a process that asks the server: an SDK of its time, and any key."""
    return {"PYTHONPATH": str(environment("skyrl") / "client"), "TINKER_API_KEY": "tml-any"}


def test_every_verb_does_what_the_torch_engine_does(
    server: InferenceServer, model: Path, asking: dict[str, str], tmp_path: Path
) -> None:
    arguments = [str(model), server.url, str(tmp_path / "snapshot")]
    result = subprocess.run(
        [sys.executable, "-c", VERBS, *arguments], capture_output=True, text=True, env={**os.environ, **asking}
    )
    assert (result.returncode, result.stdout) == (0, "all of it\n"), result.stderr


def test_a_run_that_is_killed_with_its_server_is_resumed_to_the_same_report(
    server: InferenceServer, model: Path, asking: dict[str, str], tmp_path: Path
) -> None:
    command = [*written_run(tmp_path), "--engine", "tinker", "--policy", str(model), "--engine-set", "rank=8"]
    command += ["--engine-set", f"base_url={server.url}"]
    whole = finished([*command, "--name", "whole"], asking)
    check_resumed(command, asking, tmp_path / "runs", whole, server)
