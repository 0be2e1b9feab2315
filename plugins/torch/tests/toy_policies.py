"""Small policies that need no download, and data to train them on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from toy_tokenizer import byte_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GptOssConfig, LlamaConfig, OPTConfig, Qwen3Config

from sia_core.learning import Datum, Trace
from sia_torch.adapter import Learns
from sia_torch.engine import Torch
from sia_torch.policy import LLAMA_MAPS, of_model
from sia_torch.settings import Settings
from sia_torch.tiny import build_tiny

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
}


class Digits:
    """A tokenizer of bare numbers for a vocabulary of ``size``; nothing ends a turn."""

    def __init__(self, size: int) -> None:
        self.size, self.stops = size, ()

    def encode(self, text: str) -> list[int]:
        return [int(each) for each in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def small_tiny(seed: int = 0, vocabulary: int = 40, **settings: Any) -> Torch:
    """A tiny engine with a bare vocabulary; fields of the policy's configuration go in ``tiny``."""
    checked = Settings(seed=seed, **settings)
    fields = {"hidden_size": 32, "buckets": 256, "ngrams": 3, **checked.tiny}
    model = build_tiny(seed, vocab_size=vocabulary, **fields)
    learns = Learns(checked.rank, checked.alpha, LLAMA_MAPS, whole=("embed_tokens", "lm_head"))
    return Torch.of(of_model(model, Digits(vocabulary), "tiny", learns, checked, torch.device("cpu")), checked)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SMALL),
    "qwen3": lambda: Qwen3Config(**SMALL),
    "gpt_oss": lambda: GptOssConfig(
        **SMALL,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    # Learned positions: there is none past the last.
    "gpt2": lambda: GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=70),
    "opt": lambda: OPTConfig(
        vocab_size=300,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=70,
    ),
    "short": lambda: LlamaConfig(**{**SMALL, "max_position_embeddings": 70}),
}


def write_model(kind: str, target: Path) -> None:
    """Write a randomly initialised model and its tokenizer."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    config.eos_token_id = 256
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:  # larger than the default, so that mistakes show
            torch.nn.init.normal_(weight, std=0.3 if "experts" not in name else 0.1)
    model.save_pretrained(target)
    byte_tokenizer().save_pretrained(target)


def some_data(
    engine: Torch,
    groups: int = 3,
    members: int = 4,
    seed: int = 0,
    vocabulary: int = 40,
    begins: Sequence[int] = (),
) -> list[Datum]:
    """Random sequences that share prompts of different lengths in groups, with their log-probabilities.

    All prompts begin with ``begins``.
    """
    rng = random.Random(seed)
    traces = []
    for group in range(groups):
        prompt = [*begins, *(rng.randrange(vocabulary) for _ in range(5 + 17 * group))]
        for member in range(members):
            answer = [rng.randrange(vocabulary) for _ in range(3 + member)]
            mask = [0] * len(prompt) + [1] * len(answer)
            if member == 1:
                mask[-2] = 0  # a tool's word between two of the policy's
            traces.append(Trace([*prompt, *answer], mask, [0.0] * len(mask), values=[0.0] * len(mask)))
    rows = engine.logprobs(traces)
    data = []
    for trace, row in zip(traces, rows, strict=True):
        full = Trace(trace.tokens, trace.mask, row, values=[0.1 * entry for entry in trace.mask], reference=row)
        weight = math.sin(len(data) + 1)
        spread = [weight * entry for entry in trace.mask]
        data.append(Datum(full, spread, float(len(traces)), returns=spread))
    return data


def gradients(engine: Torch) -> dict[str, torch.Tensor]:
    """The gradients that were added up, by name; cleared."""
    by_name = {name: weight.grad.clone() for name, weight in engine._learning.items() if weight.grad is not None}
    engine._optimizer.zero_grad()
    return by_name
