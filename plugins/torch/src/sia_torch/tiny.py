"""The embedded policy ``tiny``: a shallow Llama that reads hashed character n-grams.

A transformer this small spends most of a training from scratch on finding out which
characters belong together. Here each position's embedding is the sum of its token's and
those of the n-grams that end there, so that one layer over them is already a classifier
over words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

NOTHING = -1
"""Stands in a context for what is before the first token."""
_PRIME = 2_147_483_647


class TinyConfig(LlamaConfig):  # type: ignore[no-untyped-call]
    """A Llama's configuration; n-grams of 2 to ``ngrams`` tokens share ``buckets`` embeddings.

    The last ``answers`` ids of the vocabulary each stand for a whole answer.
    ``loudness`` is how long the embeddings of tokens and of ``places`` near the start
    begin, beside the head's: 1 where a policy has to copy what it reads; less where it
    has to judge a text by words it learns, which louder ones would drown.
    """

    model_type = "sia_tiny"
    ngrams: int = 2
    buckets: int = 32768
    places: int = 64
    answers: int = 0
    loudness: float = 0.1


def feature_ids(tokens: Tensor, positions: Tensor, config: TinyConfig) -> Tensor:
    """Rows of the embedding table for (..., ngrams - 1 + T) tokens, their context first: (..., T, ngrams + 1).

    ``positions`` (..., T) are the tokens' own. Column 0 is the token, column n the hash of
    the n + 1 tokens that end with it, the last its position.
    """
    length, vocabulary, buckets = positions.shape[-1], config.vocab_size, config.buckets
    columns = [tokens[..., config.ngrams - 1 :].clamp(min=0)]
    hashed = tokens[..., config.ngrams - 1 :] + 1
    for back in range(1, config.ngrams):
        start = config.ngrams - 1 - back
        # The products stay below 2**63: overflow would be another number on another device.
        hashed = (hashed * 1_000_003 + (tokens[..., start : start + length] + 1) * 8191 + back) % _PRIME
        columns.append(vocabulary + hashed % buckets)
    # Far from the start a position says nothing; near it, it is what a short answer needs to know.
    columns.append(vocabulary + buckets + positions.clamp(max=config.places - 1).expand_as(columns[0]))
    return torch.stack(columns, dim=-1)


class NgramEmbedding(nn.Embedding):
    """Embeds (B, T) tokens, or (B, T, n) ids of :func:`feature_ids` where the context is not in the sequence."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config.vocab_size + config.buckets + config.places, config.hidden_size)
        self.config = config

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 2:
            tokens = functional.pad(input, (self.config.ngrams - 1, 0), value=NOTHING)
            input = feature_ids(tokens, torch.arange(input.shape[1], device=input.device), self.config)
        summed = functional.embedding_bag(input.reshape(-1, input.shape[-1]), self.weight, mode="sum")
        return summed.view(*input.shape[:-1], -1)


class TinyForCausalLM(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """A Llama with an :class:`NgramEmbedding`. Its own ``generate`` needs ``use_cache=False``: n-grams look back."""

    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.model.embed_tokens = NgramEmbedding(config)
        self.post_init()  # type: ignore[no-untyped-call]
        self._start_by_copying()

    @torch.no_grad()
    def _start_by_copying(self) -> None:
        """Let attention hand on what it sees and the head name it, so that at first the policy echoes its prompt.

        From there reward has to find out only where to look, which takes a tenth of the
        rollouts that finding the copying itself takes.
        """
        vocabulary, table = self.config.vocab_size, self.model.embed_tokens.weight
        # Not as loud as that, or it would hardly explore.
        self.lm_head.weight.copy_(table[:vocabulary] / 3)
        table.mul_(self.config.loudness)
        # An n-gram that reward has said nothing of says nothing: its noise would drown what was learnt of others.
        table[vocabulary : vocabulary + self.config.buckets].zero_()
        for layer in self.model.layers:
            nn.init.eye_(layer.self_attn.v_proj.weight)
            nn.init.eye_(layer.self_attn.o_proj.weight)
            layer.mlp.down_proj.weight.mul_(0.1)
        if self.config.answers:
            self._begin_without_preference(vocabulary - self.config.answers)

    @torch.no_grad()
    def _begin_without_preference(self, first: int) -> None:
        """Name whole answers, from id ``first`` on, by the half of the hidden state that nothing is read into yet.

        So an untrained policy samples the prior over them. Rows of zeros would say as little, but hand no gradient on
        to the embeddings, and these would learn hardly anything.
        """
        half, answers = self.config.hidden_size // 2, self.lm_head.weight[first:]
        answers[:, :half] = 0
        answers.mul_((1 - half / self.config.hidden_size) ** -0.5)  # as loud as with all of it
        self.model.embed_tokens.weight[:, half:] = 0
        for layer in self.model.layers:
            layer.mlp.down_proj.weight[half:] = 0


def build_tiny(seed: int, **settings: Any) -> TinyForCausalLM:
    """A randomly initialised policy; the same seed and settings, the same weights."""
    width = settings.get("hidden_size", 64)
    config = TinyConfig(
        **{
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "initializer_range": width**-0.5,
            # What was learnt of an n-gram makes its embedding long; normalised fully, all would count alike.
            "rms_norm_eps": 1e-2,
            "tie_word_embeddings": False,
            "use_cache": False,
            "bos_token_id": None,
            "eos_token_id": None,
            **settings,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyForCausalLM(config)
