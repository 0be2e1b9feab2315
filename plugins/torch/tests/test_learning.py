"""All learners, through the engine as a run uses it: answer a prompt of numbers with the prompt reversed."""

from __future__ import annotations

import pkgutil
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from toy_policies import small_tiny

from sia_core.errors import NoSignal
from sia_core.learning import Request, Sample, Sampled
from sia_torch.engine import Torch

VOCABULARY, LENGTH, PROMPTS, ROLLOUTS, STEPS = 16, 6, 32, 64, 300
POLICY = {"hidden_size": 128, "num_hidden_layers": 2, "buckets": 4096, "loudness": 1.0, "rms_norm_eps": 1e-6}


LEARNERS: dict[str, tuple[str, dict[str, Any], int, int, float]] = {
    # name: class, settings, tokens of the answer, rollouts a prompt, learning rate. The base is random: no KL to it.
    "grpo": ("grpo:Grpo", {}, 6, 8, 3e-3),
    "ppo": ("ppo:Ppo", {}, 6, 8, 5e-4),
    "reinforce": ("reinforce:Reinforce", {"kl_weight": 0.0}, 6, 8, 3e-3),
    "dpo": ("dpo:Dpo", {}, 6, 8, 3e-3),
    "entropic": ("entropic:Entropic", {"kl_weight": 0.0}, 2, 16, 3e-3),
    "best-of-n": ("best_of_n:BestOfN", {"epochs": 1}, 2, 16, 3e-3),
}


def earned(tokens: Sequence[int], prompt: Sequence[int]) -> float:
    """The fraction that is right of a whole answer; of a short one, all or nothing."""
    answer = prompt[::-1][: len(tokens)]
    right = fmean(token == each for token, each in zip(tokens, answer, strict=True))
    return right if len(tokens) == LENGTH else float(right == 1)


def traced(engine: Torch, learner: Any, prompts: Sequence[list[int]], out: Sequence[Sequence[Sampled]]) -> list[Any]:
    """Groups of scored rollouts with what the learner needs of the engine."""
    traces = [each.trace(prompt) for prompt, row in zip(prompts, out, strict=True) for each in row]
    if "reference" in learner.needs:
        rows = engine.logprobs(traces, reference=True)
        traces = [replace(trace, reference=row) for trace, row in zip(traces, rows, strict=True)]
    left = iter(traces)
    return [
        [Sample(str(prompt), "agent", earned(each.tokens, prompt), [next(left)]) for each in row]
        for prompt, row in zip(prompts, out, strict=True)
    ]


def rewards(name: str, seed: int) -> list[float]:
    """The mean reward over all prompts, then that of each step's rollouts until it is high for ten steps."""
    path, settings, length, members, lr = LEARNERS[name]
    learner = pkgutil.resolve_name(f"sia_algorithms.{path}")(**settings)
    engine = small_tiny(seed, VOCABULARY, tiny=POLICY)
    rng = random.Random(seed)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(LENGTH)] for _ in range(PROMPTS)]
    first = engine.sample([Request(prompt, range(16), length) for prompt in prompts])
    means = [fmean(each.reward for group in traced(engine, learner, prompts, first) for each in group)]
    for step in range(STEPS):
        names = rng.sample(prompts, ROLLOUTS // members)
        base = (step + 1) * ROLLOUTS
        requests = [
            Request(prompt, range(base + place * members, base + (place + 1) * members), length)
            for place, prompt in enumerate(names)
        ]
        groups = traced(engine, learner, names, engine.sample(requests))
        means.append(fmean(each.reward for group in groups for each in group))
        if len(means) > 10 and fmean(means[-10:]) > 0.92:
            break
        try:
            data = learner.credit(groups)
        except NoSignal:
            continue
        for _ in range(learner.epochs):
            engine.forward_backward(data, learner.loss, learner.config.model_dump())
            engine.optim_step(lr=lr)
    return means


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn_to_reverse(name: str, seed: int) -> None:
    means = rewards(name, seed)
    assert means[0] < 0.2
    assert fmean(means[-10:]) > 0.9
