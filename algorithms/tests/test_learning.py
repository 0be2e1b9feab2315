"""All six learn: a small transformer from scratch, on policy, answers its prompt reversed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from sia_algorithms.best_of_n import BestOfN
from sia_algorithms.dpo import Dpo
from sia_algorithms.entropic import Entropic
from sia_algorithms.grpo import Grpo
from sia_algorithms.ppo import Ppo
from sia_algorithms.reinforce import Reinforce
from sia_core.errors import NoSignal
from sia_core.learning import Batch, Learner, Sample, Trace
from sia_testing.learners import named

VOCABULARY, PROMPTS, STEPS, ROLLOUTS = 16, 32, 300, 64


@dataclass(frozen=True)
class Lesson:
    """A learner, its learning rate and group size, and a task: answers of ``length``, all or nothing if ``exact``."""

    learner: Learner
    rate: float
    group: int = 8
    length: int = 6
    exact: bool = False


LESSONS = {
    # The base is uniform: at its optimum a token is right with p/(1-p) = exp(1 / (6 kl_weight)) / 15.
    "ppo": Lesson(Ppo(epochs=2, kl_weight=0.01), 1e-3),
    "grpo": Lesson(Grpo(), 2e-3),
    "reinforce": Lesson(Reinforce(kl_weight=0.01), 2e-3),
    "dpo": Lesson(Dpo(), 3e-3),
    "entropic": Lesson(Entropic(), 2e-3, group=4, length=2, exact=True),
    "best-of-n": Lesson(BestOfN(epochs=1), 2e-3, group=4, length=2, exact=True),
}


class Policy(nn.Module):
    """A transformer of one block with a value head; uniform, and worth nothing, at the start."""

    def __init__(self, length: int, seed: int, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.token, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(2 * length, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head, self.value = nn.LayerNorm(width), nn.Linear(width, VOCABULARY), nn.Linear(width, 1)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.5)
        for linear in (self.head, self.value):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def next(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution of the token after each, (B, T, V), and the value of each state, (B, T)."""
        length = tokens_BT.shape[1]
        causal_TT = torch.triu(torch.full((length, length), float("-inf")), 1)
        hidden = self.token(tokens_BT) + self.place.weight[:length]
        hidden = self.norm(self.block(hidden, src_mask=causal_TT))
        return self.head(hidden).log_softmax(-1), self.value(hidden)[..., 0]

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of each token given those before it, (B, T)."""
        logprobs_BTV, values_BT = self.next(tokens_BT[:, :-1])
        first_B1 = values_BT.new_zeros(len(tokens_BT), 1)
        logprobs_BT = logprobs_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0]
        return torch.cat([first_B1, logprobs_BT], 1), torch.cat([first_B1, values_BT], 1)


def roll_out(
    lesson: Lesson, prompts_PT: Tensor, policy: Policy, base: Policy, rng: random.Random
) -> list[list[Sample]]:
    """Groups of scored rollouts of as many prompts as a step affords."""
    prompts = rng.sample(range(PROMPTS), ROLLOUTS // lesson.group)
    tokens_BT = prompts_PT[prompts].repeat_interleave(lesson.group, 0)
    with torch.no_grad():
        for _ in range(lesson.length):
            next_BV = policy.next(tokens_BT)[0][:, -1].exp()
            tokens_BT = torch.cat([tokens_BT, torch.multinomial(next_BV, 1)], 1)
        (logprobs_BT, values_BT), (reference_BT, _) = policy(tokens_BT), base(tokens_BT)
    right_BT = tokens_BT[:, lesson.length :] == tokens_BT[:, : lesson.length].flip(1)
    rewards_B = (right_BT.all(1).float() if lesson.exact else right_BT.float().mean(1)).tolist()
    mask = [0] * lesson.length + [1] * lesson.length
    rows = zip(tokens_BT.tolist(), logprobs_BT.tolist(), values_BT.tolist(), reference_BT.tolist(), strict=True)
    traces = [Trace(tokens, mask, old, values=values, reference=base) for tokens, old, values, base in rows]
    samples = [
        Sample(str(prompts[n // lesson.group]), "agent", reward, [trace])
        for n, (reward, trace) in enumerate(zip(rewards_B, traces, strict=True))
    ]
    return [samples[start : start + lesson.group] for start in range(0, ROLLOUTS, lesson.group)]


def learn(lesson: Lesson, seed: int) -> list[float]:
    """The mean reward of each step's rollouts."""
    rng = random.Random(seed)
    prompts_PT = torch.tensor([[rng.randrange(VOCABULARY) for _ in range(lesson.length)] for _ in range(PROMPTS)])
    policy, base = Policy(lesson.length, seed), Policy(lesson.length, seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=lesson.rate, betas=(0.9, 0.95))
    loss, settings = named(lesson.learner.loss), lesson.learner.config.model_dump(mode="json")
    means = []
    for _ in range(STEPS):
        groups = roll_out(lesson, prompts_PT, policy, base, rng)
        means.append(fmean(sample.reward for group in groups for sample in group))
        try:
            data = lesson.learner.credit(groups)
        except NoSignal:  # at a cold start most steps see no reward, at the end every rollout is right
            continue
        for _ in range(lesson.learner.epochs):
            batch = Batch.of(data, torch.tensor, lambda rows: torch.tensor(rows, dtype=torch.float32))
            logprobs_BT, values_BT = policy(batch.tokens_BT)
            scalar, _ = loss(logprobs_BT, batch, values_BT, settings)
            optimizer.zero_grad()
            scalar.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
    return means


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_to_reverse_its_prompt(name: str, seed: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small are slower on more
    try:
        means = learn(LESSONS[name], seed)
    finally:
        torch.set_num_threads(threads)
    assert fmean(means[:5]) < 0.2
    assert max(fmean(means[end - 10 : end]) for end in range(10, STEPS + 1)) > 0.9
