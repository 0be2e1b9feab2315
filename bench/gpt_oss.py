"""The cost of sampling from and training gpt-oss-120b: parameters counted, bytes and hours computed.

    python bench/gpt_oss.py [--context 2048] [--prompt 400] [--answer 400] [--rank 32] [--dollars 3.95]

Parameters are those of transformers' own model and PEFT's own adapters, made without memory for weights; none are read.
Times are floating-point operations at a share of an H100's peak, and bytes at a share of its bandwidth: a
lower bound that a measured run replaces.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GptOssConfig

from sia_core.decision import Training

PEAK, SHARE = 989e12, 0.3
"""Of an H100: bfloat16 operations a second, dense (data sheet), and the share of them that training reaches."""

BANDWIDTH, READ = 3.35e12, 0.5
"""Bytes a second of its memory (data sheet), and the share of them that decoding reaches."""

CARD = 80e9
ACTIVE = 4
EXPERTS = ("gate_up_proj", "down_proj")


@dataclass(frozen=True)
class Counted:
    """Parameters: of all, of the experts, of those that compute a token, and of each kind of adapter."""

    whole: int
    experts: int
    active: int
    attention: int
    both: int


def count(config: GptOssConfig, rank: int) -> Counted:
    """Count without allocating."""
    warnings.simplefilter("ignore")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        named = dict(model.named_parameters())
        whole = sum(each.numel() for each in named.values())
        experts = sum(each.numel() for name, each in named.items() if ".experts." in name)
        embedding = model.get_input_embeddings().weight.numel()
        active = whole - embedding - experts + experts * ACTIVE // config.num_local_experts
        maps = ["q_proj", "k_proj", "v_proj", "o_proj"]
        attention = get_peft_model(model, LoraConfig(r=rank, target_modules=maps))
        adapter = sum(each.numel() for name, each in attention.named_parameters() if "lora_" in name)
    # PEFT gives each expert's matrix, (in, out), its own adapter: r (in + out) numbers.
    shapes = [each.shape for name, each in named.items() if name.endswith(EXPERTS)]
    both = adapter + sum(shape[0] * rank * (shape[1] + shape[2]) for shape in shapes)
    return Counted(whole, experts, active, adapter, both)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=2048, help="tokens of a sequence in the KV cache")
    parser.add_argument("--prompt", type=int, default=400)
    parser.add_argument("--answer", type=int, default=400, help="tokens that a rollout samples, reasoning included")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dollars", type=float, default=3.95, help="an H100 for an hour")
    parser.add_argument("--micro", type=int, default=8192, help="tokens of a training micro-batch")
    options = parser.parse_args()
    config = GptOssConfig()
    counted = count(config, options.rank)
    memory(config, counted, options)
    time(counted, options)
    return 0


def memory(config: GptOssConfig, counted: Counted, options: argparse.Namespace) -> None:
    """Bytes, by what holds them."""
    heads = 2 * config.num_key_value_heads * config.head_dim * 2
    full = sum(kind == "full_attention" for kind in config.layer_types)
    sliding = len(config.layer_types) - full
    cache = heads * (full * options.context + sliding * min(options.context, config.sliding_window))
    rest = counted.whole - counted.experts
    rows = [
        (
            f"parameters, {counted.whole / 1e9:.1f} B, {counted.active / 1e9:.1f} B active, in bfloat16",
            2 * counted.whole,
        ),
        ("experts in MXFP4 (4.25 bits), the rest in bfloat16: to sample", counted.experts * 4.25 / 8 + 2 * rest),
        (
            f"adapter on attention, {counted.attention / 1e6:.1f} M: weight, gradient, Adam in float32",
            16 * counted.attention,
        ),
        (f"adapter on experts too, {counted.both / 1e9:.2f} B: the same", 16 * counted.both),
        (f"KV cache of one sequence of {options.context:,} tokens", cache),
        (
            f"activations kept for {options.micro:,} tokens, checkpointed: one a layer",
            2 * options.micro * config.hidden_size * config.num_hidden_layers,
        ),
        (f"logits of {options.micro:,} tokens at once, float32", 4 * options.micro * config.vocab_size),
        (f"the same, {16384:,} ids at a time", 8 * options.micro * 16384),
    ]
    print("| what | GB |\n| --- | ---: |")
    for what, size in rows:
        print(f"| {what} | {size / 1e9:,.2f} |")
    training = rows[0][1] + rows[2][1] + rows[5][1] + rows[7][1]
    cards = -(-training // (0.9 * CARD))
    print(f"| to train attention, in all | {training / 1e9:,.0f}, which is {cards:.0f} cards of 80 GB |")


def time(counted: Counted, options: argparse.Namespace) -> None:
    """Hours and dollars of one update at its defaults."""
    training = Training()
    rollouts = training.rollouts(10**9)
    sampled, tokens = rollouts * options.answer, rollouts * (options.prompt + options.answer)
    prompts = rollouts // training.group * options.prompt  # a group computes its prompt once
    forward, backward = 2 * counted.active * (prompts + sampled), 4 * counted.active * (prompts + sampled)
    train = (forward + backward) / (PEAK * SHARE)
    prefill = 2 * counted.active * prompts / (PEAK * SHARE)
    # At a batch in which every expert is hit, a step of decoding reads all weights once.
    decode = sampled / 256 * (counted.experts * 4.25 / 8 + 2 * (counted.whole - counted.experts)) / (BANDWIDTH * READ)
    print(
        f"\nOne update at its defaults: {rollouts:,} rollouts, {tokens / 1e6:.1f} M tokens, "
        f"{sampled / 1e6:.1f} M of them sampled."
    )
    print("| what | H100 hours | dollars |\n| --- | ---: | ---: |")
    for what, seconds in (
        ("sampling: prompts", prefill),
        ("sampling: decoding, 256 sequences at once", decode),
        ("training: forward and backward", train),
        ("in all", prefill + decode + train),
    ):
        print(f"| {what} | {seconds / 3600:.2f} | {seconds / 3600 * options.dollars:,.2f} |")


if __name__ == "__main__":
    sys.exit(main())
