"""A real pretrained model, where one was made a policy before: nothing is fetched here."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sia_core.cache import cache_folder
from sia_core.errors import TrainingError
from sia_core.learning import Datum, Request, Trace
from sia_torch.engine import Torch
from sia_torch.precision import dtype_of
from sia_torch.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    for config in sorted(cache_folder("policies").glob("*/config.json")):
        settings = json.loads(config.read_text())
        if settings.get("model_type") == "llama" and settings.get("hidden_size") == 576:
            return config.parent
    pytest.skip("SmolLM2-135M-Instruct is not in the cache: --policy smollm2 puts it there")


def opened(folder: Path, dtype: str) -> Torch:
    return Torch(policy=f"hf:{folder}", dtype=dtype, temperature=0.7)


def sampled(engine: Torch) -> list[Trace]:
    questions = ["What is nine minus four?", "What is six times twelve?", "Name a colour.", "Who wrote Hamlet?"]
    prompts = [engine.tokens.render([{"role": "user", "content": each}]) for each in questions]
    out = engine.sample([Request(prompt, range(4), max_tokens=16) for prompt in prompts])
    return [each.trace(prompt) for prompt, row in zip(prompts, out, strict=True) for each in row]


def learned(engine: Torch, traces: Sequence[Trace], seed: int) -> None:
    rng = random.Random(seed)
    data = [
        Datum(each, [entry * weight for entry in each.mask], 300.0, returns=each.mask)
        for each in traces
        for weight in [rng.choice((-1.0, 1.0))]
    ]
    for _ in range(3):
        engine.forward_backward(data, "toy_losses:weighted")
        engine.optim_step(lr=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_passes_the_check_and_harm_does_not(dtype: str, folder: Path, tmp_path: Path) -> None:
    if dtype == "bfloat16" and dtype_of(Settings(), torch.device("cpu")) != torch.bfloat16:
        pytest.skip("this processor multiplies bfloat16 at a tenth of float32's speed, so auto is float32 on it")
    torch.manual_seed(0)
    engine = opened(folder, dtype)
    fresh = sampled(engine)
    engine.check(fresh)
    learned(engine, fresh, 1)
    engine.save(tmp_path / "one")
    traces = sampled(engine)
    engine.check(traces)
    shuffled = list(range(engine.tokens.size))
    random.Random(0).shuffle(shuffled)
    with pytest.raises(TrainingError, match="sampler and trainer disagree"):
        engine.check([replace(each, tokens=[shuffled[token] for token in each.tokens]) for each in traces])
    with pytest.raises(TrainingError, match="sampler and trainer disagree"):
        opened(folder, dtype).check(traces)
    learned(engine, traces, 2)
    with pytest.raises(TrainingError, match="sampler and trainer disagree"):
        engine.check(traces)
    other = opened(folder, "float32" if dtype == "bfloat16" else "bfloat16")
    other.load(tmp_path / "one")
    assert other.digest() != engine.digest()
    gaps = [
        abs(now - then)
        for row, trace in zip(other.logprobs(traces), traces, strict=True)
        for now, then, entry in zip(row, trace.logprobs, trace.mask, strict=True)
        if entry
    ]
    assert sum(gaps) / len(gaps) < 0.086
