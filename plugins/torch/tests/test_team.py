"""Several processes make the adapter that one makes, go on from its snapshots, and end with it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_policies import some_data

from sia_core.errors import ModelError, TrainingError
from sia_core.learning import Datum, Request
from sia_testing.engine_contract import EngineContract
from sia_torch.engine import Torch
from sia_torch.team import Team, _cut, open_engine

WEIGHTED = "toy_losses:weighted"
TINY = {"policy": "tiny", "tiny": {"hidden_size": 32, "buckets": 512}}

Make = Callable[..., Torch]


@pytest.fixture
def make() -> Iterator[Make]:
    """Engines with a number of processes, which are closed after the test."""
    engines: list[Torch] = []

    def engine(**settings: Any) -> Torch:
        engines.append(open_engine(**{**TINY, "dtype": "float32", "micro_tokens": 300, **settings}))
        return engines[-1]

    yield engine
    for each in engines:
        if isinstance(each, Team):
            each.close()


def batches(engine: Torch, count: int) -> list[list[Datum]]:
    return [some_data(engine, seed=seed) for seed in range(count)]


def learn(engine: Torch, some: list[list[Datum]]) -> list[dict[str, float]]:
    figures = []
    for data in some:
        for half in (data[:7], data[7:]):  # two calls add up before a step
            sums = engine.forward_backward([replace(each, normaliser=float(len(data))) for each in half], WEIGHTED)
        figures.append({**sums, **engine.optim_step(lr=5e-4)})
    return figures


def apart(first: Torch, second: Torch) -> float:
    pairs = zip(first.policy.learning().values(), second.policy.learning().values(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("order", [[3, 1, 2, 0], []])
def test_what_is_divided_is_cut_into_parts_of_about_the_same_size(order: list[int]) -> None:
    sizes = [10, 20, 30, 5]
    parts = _cut(order, sizes, 3)
    assert [each for part in parts for each in part] == order
    assert [sum(sizes[each] for each in part) for part in parts] == ([25, 30, 10] if order else [0, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("tiny", {}), ("qwen3", {"rank": 4}), ("gpt_oss", {"rank": 4, "experts": True})],
    ids=["tiny", "qwen3", "gpt-oss with its experts"],
)
def test_two_processes_make_the_adapter_of_one(
    make: Make, model_folder: Callable[[str], Path], tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    if kind != "tiny":
        settings = {**settings, "policy": f"hf:{model_folder(kind)}"}
    one, two = make(**settings), make(**settings, processes=2)
    some = batches(one, 4)
    learning = one.policy.learning()
    start = {name: weight.detach().clone() for name, weight in learning.items()}
    figures = learn(one, some)
    others = learn(two, some[:2])
    two.save(tmp_path / "half")
    others += learn(two, some[2:])
    for each, other in zip(figures, others, strict=True):
        assert other == pytest.approx(each, rel=1e-4)
    assert max(float((each.detach() - start[name]).abs().max()) for name, each in learning.items()) > 1e-3
    assert apart(one, two) < 1e-5
    # Resumed it is the same to the bit on as many processes, and to rounding on one.
    for resumed, apart_at_most in ((make(**settings, processes=2), 0.0), (make(**settings), 1e-5)):
        resumed.load(tmp_path / "half")
        learn(resumed, some[2:])
        assert apart(resumed, two) <= apart_at_most


@pytest.mark.slow
def test_samples_and_log_probabilities_are_those_of_one_process(make: Make) -> None:
    one, two = make(), make(processes=2, rows=8)
    learn(two, batches(one, 2))
    learn(one, batches(make(), 2))
    rng = random.Random(0)
    requests = [
        Request([rng.randrange(90) for _ in range(5 + number % 3)], [1, 2, 3], max_tokens=6) for number in range(9)
    ]
    drawn = two.sample(requests)
    assert [[each.tokens for each in row] for row in drawn] == [[x.tokens for x in row] for row in one.sample(requests)]
    traces = [each.trace(request.prompt) for request, row in zip(requests, drawn, strict=True) for each in row]
    assert two.check(traces) < 1e-4
    for row, other in zip(two.logprobs(traces), one.logprobs(traces), strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    assert two.logprobs([]) == []


@pytest.mark.slow
def test_a_batch_that_fails_leaves_no_gradient_behind_in_any_process(make: Make) -> None:
    one, two = make(), make(processes=2)
    first, second = batches(one, 2)
    two.forward_backward(first, WEIGHTED)
    with pytest.raises(TrainingError, match="the loss of toy_losses:broken is nan"):
        two.forward_backward(first, "toy_losses:broken")
    learn(one, [second])
    learn(two, [second])
    assert apart(one, two) < 1e-5


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_run_and_is_told(make: Make) -> None:
    team = make(processes=2)
    assert isinstance(team, Team)
    (data,) = batches(make(), 1)
    helper = team._others[0]._process
    helper.kill()
    helper.wait()
    for _ in range(2):
        with pytest.raises(ModelError, match=r"process 2 of the engine torch ended .* `sia resume`"):
            team.forward_backward(data, WEIGHTED)


@pytest.mark.slow
def test_the_others_end_with_a_process_that_is_killed() -> None:
    code = f"""
import time
from sia_torch.team import open_engine
team = open_engine(**{TINY!r}, processes=2)
print(team._others[0]._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        helper = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{helper}").exists() and "Z" not in Path(f"/proc/{helper}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
class TestTeam(EngineContract):
    @pytest.fixture
    def make(self) -> Iterator[Callable[[], Torch]]:
        teams: list[Team] = []

        def engine() -> Torch:
            teams.append(Team(**TINY, processes=2))
            return teams[-1]

        yield engine
        for each in teams:
            each.close()


def test_one_process_is_the_plain_engine() -> None:
    assert type(open_engine(**TINY)) is Torch
    assert torch.get_num_threads() == 1
