"""Settings that follow from the policy: learning rate, size of an update and of a micro-batch, temperature."""

from __future__ import annotations

import math
from typing import Any

import torch

TINY_RATE = 3e-3
LORA_RATE, LORA_WIDTH, LORA_FALL = 5e-4, 576, 0.781
"""Of LoRA on a pretrained model: the rate at a hidden state of this width, and how fast it falls with width.

At 4e-5 SmolLM2-135M-Instruct, 576 wide, hardly moves in five steps of 16 x 8 rollouts (mean reward .29 to .36), and at
5e-4 goes from .29 to .73. The power of the width is Llama's in Schulman and Thinking Machines 2025, "LoRA Without
Regret", who find the best rate of LoRA to be ten times that of full fine-tuning, whatever the rank.
"""

ROLLOUTS = 10 * 16 * 8
"""Of an update of a pretrained model: PPO takes SmolLM2 with a calculator from .34 to .95 in half as many."""


def learning_rate_of(policy: str, width: int) -> float:
    """The first step's learning rate, for a policy whose hidden state has this width."""
    if policy == "tiny":
        return TINY_RATE
    return LORA_RATE * min(1.0, math.pow(LORA_WIDTH / width, LORA_FALL))


def micro_tokens_of(settings: dict[str, Any]) -> int:
    """The positions of a micro-batch, by the other settings.

    On a CPU a pretrained model with 2,048 takes half the memory that it takes with 8,192, and about a tenth more time:
    SmolLM2 in bfloat16 4.5 of 8.2 GB, for 16 x 8 rollouts of 60 + 32 tokens.
    """
    on_cpu = settings["device"] == "cpu" or (not settings["device"] and not torch.cuda.is_available())
    return 2048 if on_cpu and settings["policy"] != "tiny" else 8192


def rollouts_of(policy: str) -> int:
    """How many rollouts suit an update; 0 where the learner's own advice does."""
    return 0 if policy == "tiny" else ROLLOUTS


def temperature_of(settings: dict[str, Any]) -> float:
    """Of sampling, by the other settings.

    At 1 a small pretrained model is far below what it can do: SmolLM2 is right on .12 of short sums, and on .71 when
    it takes the likeliest token. gpt-oss is published, and trained elsewhere, at 1.
    """
    return 1.0 if settings["policy"] == "tiny" or settings["chat"] == "harmony" else 0.7
