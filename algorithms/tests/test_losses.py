"""PPO and entropic against the formulas of their papers, written out token by token; all against finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sia_algorithms.entropic import Entropic
from sia_algorithms.ppo import Ppo
from sia_core.learning import Learner, Sample

pytestmark = pytest.mark.thorough

REWARDS = [[0.0, 1.0, 0.25, 0.5], [1.0, 0.0, 0.0, 0.3, 0.1], [0.5, 0.5, 0.5]]


def current(toy: Any, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The policy's log-probabilities and values of one sequence."""
    logprobs, values = toy.policy(torch.tensor([list(tokens)]))
    return logprobs[0], values[0]


def gradient(toy: Any, scalar: Tensor) -> Tensor:
    grads = torch.autograd.grad(scalar, list(toy.policy.parameters()), allow_unused=True)
    pairs = zip(grads, toy.policy.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def ppo_by_hand(toy: Any, groups: Sequence[Sequence[Sample]], lam: float, eps: float, weight: float) -> Tensor:
    """Schulman 2016, eq. 16, as a double sum; Schulman 2017, eq. 7; the critic clipped likewise."""
    terms, credits = [], []
    for sample in [sample for group in groups for sample in group]:
        places = [(trace, t) for trace in sample.traces for t in range(len(trace.tokens)) if trace.mask[t]]
        v = [trace.values[t] for trace, t in places if trace.values is not None] + [0.0]
        r = [0.0] * (len(places) - 1) + [sample.reward]
        delta = [r[t] + v[t + 1] - v[t] for t in range(len(places))]
        for t, (trace, at) in enumerate(places):
            advantage = sum(lam**k * delta[t + k] for k in range(len(places) - t))
            logprobs, values = current(toy, trace.tokens)
            credits.append(advantage)
            terms.append((logprobs[at] - trace.logprobs[at], values[at], v[t], advantage + v[t]))
    mean = sum(credits) / len(credits)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in credits) / len(credits))
    total = torch.zeros((), dtype=torch.float64)
    for (log_ratio, value, old_value, target), raw in zip(terms, credits, strict=True):
        a = (raw - mean) / (deviation + 1e-8)
        rho = log_ratio.exp()
        surrogate = torch.min(rho * a, rho.clamp(1 - eps, 1 + eps) * a)
        near = old_value + (value - old_value).clamp(-eps, eps)
        error = torch.max((value - target) ** 2, (near - target) ** 2)
        total = total - surrogate + weight * 0.5 * error
    return total / len(terms)


def entropic_by_hand(toy: Any, groups: Sequence[Sequence[Sample]], weight: float) -> Tensor:
    """TTT-Discover as published, on raw rewards: double beta, bisect, leave one out, KL in the advantage."""
    varied = [group for group in groups if len({sample.reward for sample in group}) > 1]
    terms, drifts = [], []
    for group in varied:
        r = torch.tensor([sample.reward for sample in group], dtype=torch.float64)
        n = len(r)

        def tilt(beta: float, r: Tensor = r, n: int = n) -> float:
            q = torch.softmax(beta * r, 0)
            return float((q * torch.log(n * q)).sum())

        high = 1.0
        while tilt(high) < math.log(2) and high < 1e6:
            high *= 2
        low = 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tilt(middle) < math.log(2) else (low, middle)
        e = torch.exp(high * (r - r.max()))
        for index, sample in enumerate(group):
            z = (e.sum() - e[index]) / (n - 1)
            advantage = float(e[index] / (z + 1e-12) - 1)
            for trace in sample.traces:
                logprobs, _ = current(toy, trace.tokens)
                for t in [t for t in range(len(trace.tokens)) if trace.mask[t]]:
                    drift = trace.logprobs[t] - (trace.reference or [])[t]
                    drifts.append(drift)
                    terms.append((logprobs[t] - trace.logprobs[t], advantage, drift))
    mean = sum(drifts) / len(drifts)
    loss = -sum(
        (log_ratio.exp() * (advantage + weight * (mean - drift)) for log_ratio, advantage, drift in terms),
        start=torch.zeros((), dtype=torch.float64),
    )
    return loss / sum(len(group) for group in varied)


@pytest.mark.parametrize(("lam", "eps", "weight"), [(0.95, 0.2, 0.5), (1.0, 0.05, 0.1), (0.5, 0.01, 2.0)])
def test_ppo_is_the_papers_formula(toy: Any, lam: float, eps: float, weight: float) -> None:
    groups = toy.groups(REWARDS)
    learner = Ppo(lam=lam, clip=eps, clip_value=eps, value_weight=weight)
    data = learner.credit(groups)
    expected = ppo_by_hand(toy, groups, lam, eps, weight)
    assert toy.loss(learner, data)[0].item() == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(toy.gradient(learner, data), gradient(toy, expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_entropic_is_the_papers_formula(toy: Any, weight: float) -> None:
    groups = toy.groups(REWARDS)
    learner = Entropic(kl_weight=weight)
    data = learner.credit(groups)
    expected = entropic_by_hand(toy, groups, weight)
    assert toy.loss(learner, data)[0].item() == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(toy.gradient(learner, data), gradient(toy, expected), rtol=1e-9, atol=1e-12)


def test_a_gradient_is_what_finite_differences_say(learner: Learner, toy: Any) -> None:
    data = learner.credit(toy.groups(REWARDS))
    exact = toy.gradient(learner, data)
    flat = torch.cat([p.detach().flatten() for p in toy.policy.parameters()])
    step = 1e-6
    for seed in range(4):
        direction = torch.randn(len(flat), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        sides = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(flat + sign * step * direction, toy.policy.parameters())
            sides.append(toy.loss(learner, data)[0].item())
        torch.nn.utils.vector_to_parameters(flat, toy.policy.parameters())
        measured = (sides[0] - sides[1]) / (2 * step)
        assert measured == pytest.approx(float(exact @ direction), rel=1e-6, abs=1e-8)
