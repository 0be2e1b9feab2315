"""Several processes make the adapter that one makes, go on from its snapshots, and end with it."""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_policies import some_data

from sia_algorithms.dpo import Dpo
from sia_algorithms.grpo import Grpo
from sia_algorithms.ppo import Ppo
from sia_core.errors import ModelError, TrainingError, UsageError
from sia_core.learning import Datum, Request, Sample
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
        for part in (data[:1], data[1:7], data[7:]):  # they add up before a step; one datum leaves a process idle
            sums = engine.forward_backward([replace(each, normaliser=float(len(data))) for each in part], WEIGHTED)
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
    ("kind", "settings", "shared"),
    [
        ("tiny", {}, {}),
        ("qwen3", {"rank": 4}, {}),
        ("qwen3", {"rank": 4, "checkpointing": True}, {"shard": True}),
        ("gpt_oss", {"rank": 4, "experts": True}, {}),
        ("gpt_oss", {"rank": 4, "experts": True}, {"shard": True}),
    ],
)
def test_two_processes_make_the_adapter_of_one(
    make: Make,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
    shared: dict[str, Any],
) -> None:
    if kind != "tiny":
        settings = {**settings, "policy": f"hf:{model_folder(kind)}"}
    one, two = make(**settings), make(**settings, **shared, processes=2)
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
    if isinstance(two, Team):
        two.close()
    # Resumed it is the same to the bit on as many processes, and to rounding on one.
    for resumed, apart_at_most in ((make(**settings, **shared, processes=2), 0.0), (make(**settings), 1e-5)):
        resumed.load(tmp_path / "half")
        learn(resumed, some[2:])
        assert apart(resumed, two) <= apart_at_most


@pytest.mark.slow
def test_learners_make_the_adapter_of_one_process_on_a_base_that_two_share(
    make: Make, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = {"policy": f"hf:{model_folder('qwen3')}", "rank": 4}
    one, two = make(**settings), make(**settings, processes=2, shard=True)
    one.save(tmp_path / "base")
    ends: dict[str, Any] = {}
    for learner in (Ppo(), Grpo(), Dpo()):
        name, data = type(learner).__name__, credited(one, learner)
        for engine in (one, two):
            engine.load(tmp_path / "base")
            update(engine, learner, data)
            engine.save(tmp_path / f"{name} of {engine.settings.processes}")
            update(engine, learner, data)
        assert apart(one, two) < 1e-5, name
        assert (float(one.policy.value_head.weight.detach().abs().max()) > 0) == (name == "Ppo")
        ends[name] = learner, data, {key: weight.detach().clone() for key, weight in one.policy.learning().items()}
    assert isinstance(two, Team)
    two.close()
    resumed = make(**settings, processes=2, shard=True)
    for name, (learner, data, end) in ends.items():
        for begun_with in (1, 2):
            resumed.load(tmp_path / f"{name} of {begun_with}")
            update(resumed, learner, data)
            weights = resumed.policy.learning()
            assert max(float((weights[key].detach() - end[key]).abs().max()) for key in end) < 1e-5, name


def credited(engine: Torch, learner: Any) -> list[Datum]:
    """A learner's data of samples of four prompts, with rewards at random."""
    rng = random.Random(0)
    prompts = [[rng.randrange(90) for _ in range(length)] for length in (5, 9, 9, 17)]
    rows = engine.sample([Request(prompt, range(4), max_tokens=4 + place) for place, prompt in enumerate(prompts)])
    traces = [each.trace(prompt) for prompt, row in zip(prompts, rows, strict=True) for each in row]
    references = engine.logprobs(traces, reference=True)
    samples = [
        Sample(str(place // 4), "agent", rng.random(), [replace(trace, reference=reference)])
        for place, (trace, reference) in enumerate(zip(traces, references, strict=True))
    ]
    data: list[Datum] = learner.credit([samples[first : first + 4] for first in range(0, len(samples), 4)])
    return data


def update(engine: Torch, learner: Any, data: list[Datum]) -> None:
    for _ in range(learner.epochs):
        engine.forward_backward(data, learner.loss, learner.config.model_dump())
        engine.optim_step(lr=5e-4)


@pytest.fixture(params=[False, pytest.param(True, id="shared base")])
def shared(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> dict[str, Any]:
    """The settings of two processes, each with the whole of a base or with a part."""
    whole = {"policy": f"hf:{model_folder('gpt_oss')}", "rank": 4, "processes": 2}
    return {**whole, "shard": True} if request.param else whole


@pytest.mark.slow
def test_samples_and_log_probabilities_are_those_of_one_process(make: Make, shared: dict[str, Any]) -> None:
    alone = {**shared, "processes": 1, "shard": False}
    one, two = make(**alone), make(**shared, rows=8)
    some = batches(one, 2)
    learn(two, some)
    learn(one, some)
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
def test_a_batch_that_fails_leaves_no_gradient_behind_in_any_process(make: Make, shared: dict[str, Any]) -> None:
    one, two = make(**{**shared, "processes": 1, "shard": False}), make(**shared)
    first, second = batches(one, 2)
    two.forward_backward(first, WEIGHTED)
    with pytest.raises(TrainingError, match="the loss of toy_losses:broken is nan"):
        two.forward_backward(first, "toy_losses:broken")
    learn(one, [second])
    learn(two, [second])
    assert apart(one, two) < 1e-5


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_and_is_told(make: Make, shared: dict[str, Any]) -> None:
    team = make(**shared)
    assert isinstance(team, Team)
    (data,) = batches(team, 1)
    helper = team._others[0]._process
    for _ in range(2):
        with pytest.raises(ModelError, match=r"process 2 of the engine torch ended .*-9.* `sia resume`"):
            team.forward_backward(data, "toy_losses:killed", {"process": helper.pid})


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_process_that_fails_in_a_pass_ends_the_others_and_is_told(
    make: Make, model_folder: Callable[[str], Path], number: int
) -> None:
    team = make(policy=f"hf:{model_folder('qwen3')}", rank=4, processes=3, shard=True)
    assert isinstance(team, Team)
    (data,) = batches(team, 1)
    helpers = [each._process for each in team._others]
    failing = [os.getpid(), *(each.pid for each in helpers)][number - 1]
    with pytest.raises(
        ModelError, match=f"process {number} of the engine torch failed .*: out of memory. .*sia resume"
    ):
        team.forward_backward(data, "toy_losses:out_of_memory", {"process": failing})
    assert all(each.poll() is not None for each in helpers)


@pytest.mark.slow
def test_the_others_end_with_a_process_that_is_killed(shared: dict[str, Any]) -> None:
    code = f"""
import time
from sia_torch.team import open_engine
team = open_engine(**{shared!r})
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
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_another_thread_can_fork_once_an_engine_is_closed(shared: dict[str, Any]) -> None:
    engine = open_engine(**{"dtype": "float32", "processes": 2, **shared})
    learn(engine, batches(engine, 1))
    assert isinstance(engine, Team)
    engine.close()
    del engine
    gc.collect()

    def fork() -> int:
        child = os.fork()
        if not child:
            os._exit(0)
        return child

    with ThreadPoolExecutor(1) as threads:
        child = threads.submit(fork).result()
    ended, _, _ = select.select([os.pidfd_open(child)], [], [], 60)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert ended


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"policy": "hf:any"}, "set processes=2"),
        ({"processes": 2}, "tiny is held whole"),
        ({"policy": "hf:any", "processes": 2, "device": "cuda"}, "set device=cpu"),
    ],
)
def test_a_base_that_cannot_be_shared_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_engine(**settings, shard=True)


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
