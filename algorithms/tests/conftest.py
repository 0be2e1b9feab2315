"""A toy policy in float64 and random rollouts of it, for the learners' tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sia_algorithms.best_of_n import BestOfN
from sia_algorithms.dpo import Dpo
from sia_algorithms.entropic import Entropic
from sia_algorithms.grpo import Grpo
from sia_algorithms.ppo import Ppo
from sia_algorithms.reinforce import Reinforce
from sia_core.learning import Batch, Datum, Learner, Sample, Trace
from sia_testing.learners import named

VOCABULARY = 7

LEARNERS: dict[str, Callable[[], Learner]] = {
    "ppo": Ppo,
    "grpo": lambda: Grpo(kl_weight=0.04),
    "grpo, token mean, drops flat groups": lambda: Grpo(aggregate="token_mean", clip_high=0.28, drop_flat=True),
    "grpo, constant length": lambda: Grpo(divide_by_std=False, aggregate="constant", max_tokens=9),
    "grpo, sequence ratio": lambda: Grpo(ratio="sequence"),
    "entropic": Entropic,
    "reinforce": Reinforce,
    "reinforce, k3": lambda: Reinforce(kl="k3_in_loss"),
    "dpo": Dpo,
    "best-of-n": lambda: BestOfN(top=2),
}


class Bigram(nn.Module):
    """log p(token | the one before), and a value of the one before: every gradient is dense and exact."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
        self.table = nn.Parameter(table)
        self.value = nn.Parameter(torch.randn(VOCABULARY, generator=generator, dtype=torch.float64))

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities, values), each (B, T); column 0 is 0."""
        before_BT, tokens_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
        first_B1 = self.table.new_zeros(len(tokens_BT), 1)
        logprobs_BT = self.table.log_softmax(-1)[before_BT, tokens_BT]
        return torch.cat([first_B1, logprobs_BT], 1), torch.cat([first_B1, self.value[before_BT]], 1)


def floats(rows: list[Any]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@dataclass
class Toy:
    """A sampler, a base, and a policy that has moved on from the sampler: three bigram tables."""

    sampler: Bigram
    base: Bigram
    policy: Bigram

    @classmethod
    def new(cls) -> Toy:
        toy = cls(Bigram(0), Bigram(1), Bigram(0))
        with torch.no_grad():
            toy.policy.table.add_(0.15 * Bigram(2).table)
            toy.policy.value.add_(0.15 * Bigram(2).value)
        return toy

    def trace(self, tokens: Sequence[int], mask: Sequence[int], **more: Any) -> Trace:
        """A trace with what sampler and base say of it."""
        with torch.no_grad():
            logprobs, values = self.sampler(torch.tensor([list(tokens)]))
            reference, _ = self.base(torch.tensor([list(tokens)]))
        masked = floats(list(mask))
        return Trace(
            tokens=list(tokens),
            mask=list(mask),
            logprobs=(logprobs[0] * masked).tolist(),
            values=(values[0] * masked).tolist(),
            reference=(reference[0] * masked).tolist(),
            **more,
        )

    def groups(self, rewards: Sequence[Sequence[float]], seed: int = 0) -> list[list[Sample]]:
        """A group for each list of rewards: random rollouts of one or two turns and of one or two traces."""
        rng = random.Random(seed)
        groups = []
        for number, earned in enumerate(rewards):
            group = []
            for reward in earned:
                traces = [self._random_trace(rng) for _ in range(rng.choice([1, 1, 1, 2]))]
                group.append(Sample(f"instance {number}", "agent", reward, traces))
            groups.append(group)
        return groups

    def _random_trace(self, rng: random.Random) -> Trace:
        mask = [0] * rng.randint(1, 3)
        for _ in range(rng.randint(1, 2)):
            mask += [1] * rng.randint(1, 5) + [0] * rng.randint(0, 2)
        return self.trace([rng.randrange(VOCABULARY) for _ in mask], mask)

    def gradient(self, learner: Learner, data: Sequence[Datum]) -> Tensor:
        """The gradient of the learner's loss at the policy."""
        self.policy.zero_grad()
        torch.autograd.backward(self.loss(learner, data)[0])
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.policy.parameters()]
        return torch.cat([grad.flatten() for grad in grads])

    def loss(self, learner: Learner, data: Sequence[Datum]) -> tuple[Tensor, Mapping[str, Any]]:
        """The learner's loss, and its sums to watch."""
        batch = Batch.of(data, torch.tensor, floats)
        logprobs_BT, values_BT = self.policy(batch.tokens_BT)
        return named(learner.loss)(logprobs_BT, batch, values_BT, learner.config.model_dump(mode="json"))


@pytest.fixture
def toy() -> Toy:
    return Toy.new()


@pytest.fixture(params=list(LEARNERS))
def learner(request: pytest.FixtureRequest) -> Learner:
    return LEARNERS[request.param]()
