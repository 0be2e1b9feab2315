"""A policy by its name: the model under its adapter, its tokenizer, and how its embedding is fed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sia_core.errors import UsageError
from sia_runtime.chat_template import ChatTemplate
from sia_torch.adapter import EXPERTS, Learns, adapt, attention_maps, weight_of
from sia_torch.base import trained_on
from sia_torch.harmony import HarmonyTokens
from sia_torch.precision import dtype_of
from sia_torch.pretrained import KINDS, model_of, without_bars
from sia_torch.settings import Settings
from sia_torch.shards import Shards
from sia_torch.tiny import TinyConfig, build_tiny, feature_ids
from sia_torch.tokens import WHOLE, CharTokens, HfTokens, Tokens
from sia_torch.tree import Packed, last_layer, tree_attention, tree_mask

TREE = "sia_tree"
TREE_TYPES = frozenset({"llama", "qwen2", "qwen3", "sia_tiny"})
LLAMA_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Policy:
    """A causal LM with an adapter.

    Attributes
    ----------
    model : the PEFT model; its adapter's weights and the value head's are all that learns.
    value_head : estimates a state's value from its hidden state; zero at first.
    tokens : the tokenizer.
    context : how many tokens before a token its embedding reads.
    limit : how many tokens it can read at once; None where its configuration does not say.
    about : its parameters, those of the adapter among them that are trained, and whether it was trained before.
    shards : this process's place among those that hold the base together; None where it is whole here.
    identities : of a base that is not whole here, the digests by which snapshots know it.
    """

    def __init__(self, model: PeftModel, tokens: Tokens, name: str, checkpointing: bool) -> None:
        self.model, self.tokens, self.name = model, tokens, name
        base: Any = model.get_base_model()
        self.config = base.config
        self.trunk: nn.Module = base.get_decoder()
        self._base = base
        self.shards: Shards | None = None
        self.identities: tuple[str, ...] = ()
        self.device = next(model.parameters()).device
        self.context = self.config.ngrams - 1 if isinstance(self.config, TinyConfig) else 0
        self.limit = limit_of(self.config)
        self.value_head = nn.Linear(self.config.hidden_size, 1).to(self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        whole = sum(each.numel() for each in model.parameters())
        fresh = isinstance(self.config, TinyConfig)
        self.about = {"parameters": whole, "trained_parameters": trained, "pretrained": not fresh}
        self._windowed = set(getattr(self.config, "layer_types", None) or ())
        self.tree = self.config.model_type in TREE_TYPES and self._windowed <= {"full_attention"}
        if self.tree:
            self._last_layer = partial(last_layer, self.layers()[-1])
            AttentionInterface.register(TREE, tree_attention)
            AttentionMaskInterface.register(TREE, sdpa_mask)
            model.set_attn_implementation(TREE)
        if getattr(self.config, "final_logit_softcapping", None) or getattr(self.config, "logit_scale", None):
            raise UsageError(f"{name} transforms its logits after the head, which this engine does not do")
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            self.config.attention_dropout = 0.0
            base.activation_checkpointing_enable({"use_reentrant": False})
            model.train()  # transformers checkpoints in training mode only; no dropout is left

    def features(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The input of the embedding for (..., context + T) tokens, and the T tokens' (..., T) positions."""
        if isinstance(self.config, TinyConfig):
            return feature_ids(tokens, positions, self.config)
        return tokens

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings (..., T, D) of features."""
        embedded: Tensor = self._base.get_input_embeddings()(features)
        return embedded

    def hidden(self, packed: Packed) -> Tensor:
        """The hidden states (B, G * T, D) of a packed micro-batch's branches."""
        with self.passing():
            return self._hidden(packed)

    def passing(self) -> contextlib.AbstractContextManager[None]:
        """Where the layers are computed, or gone back through."""
        return self.shards.passing() if self.shards else contextlib.nullcontext()

    def layers(self) -> list[nn.Module]:
        """The model's layers, in their order."""
        kinds = set(self._base._no_split_modules or ())
        if layers := [module for module in self.trunk.modules() if type(module).__name__ in kinds]:
            return layers
        raise UsageError(f"{self.name} does not say what its layers are, which this engine has to know")

    def divide(self, shards: Shards) -> None:
        """Keep this process's part of the layers' frozen weights: what learns is whole, as are embedding and head."""
        layers = self.layers()
        shards.divide(layers, {*self.learning().values()})
        if self.tree:  # the last layer is computed by a function, which has to gather it as its ``forward`` would
            last: Any = layers[-1]
            last.sia_last_layer = MethodType(last_layer, last)
            register_fsdp_forward_method(last, "sia_last_layer")
            self._last_layer = last.sia_last_layer
        self.shards = shards

    def _hidden(self, packed: Packed) -> Tensor:
        embedded, positions = self.embed(packed.features), self._within(packed.positions_BS)
        start = packed.tree.shape.prefix
        trunk: Any = self.trunk
        if not self.tree:
            states = trunk(
                inputs_embeds=embedded, position_ids=positions, use_cache=False, attention_mask=self._masks(packed)
            ).last_hidden_state
            return torch.as_tensor(states[:, start:])
        cos, sin = trunk.rotary_emb(embedded, position_ids=positions)
        for layer in trunk.layers[:-1]:
            embedded = layer(
                embedded, attention_mask=None, position_ids=positions, position_embeddings=(cos, sin), tree=packed.tree
            )
        normed: Tensor = trunk.norm(self._last_layer(embedded, cos, sin, packed.tree))
        return normed

    def _masks(self, packed: Packed) -> Tensor | dict[str, Tensor]:
        """Additive masks (B, 1, S, S), by kind of layer where a model has several."""
        dtype = next(self.model.parameters()).dtype

        def additive(window: int | None) -> Tensor:
            mask = tree_mask(packed.tree, packed.positions_BS, window)
            return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

        window = getattr(self.config, "sliding_window", None)
        if not self._windowed:
            return additive(window)
        kinds = {"full_attention": None, "sliding_attention": window}
        unknown = self._windowed - set(kinds)
        if unknown:
            raise UsageError(f"{self.name} has layers of {', '.join(sorted(unknown))}, which this engine cannot train")
        return {kind: additive(kinds[kind]) for kind in self._windowed}

    def run(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The model's own forward: hidden states (R, T, D) of new tokens, and the cache that holds them."""
        with self.passing():
            result = self.trunk(
                input_ids=tokens,
                position_ids=self._within(positions),
                attention_mask=mask.long(),
                past_key_values=cache,
                use_cache=True,
            )
        return result.last_hidden_state, result.past_key_values

    def _within(self, positions: Tensor) -> Tensor:
        """Positions that the model has: those of padding, which nobody reads, may lie past its limit."""
        return positions if self.limit is None else positions.clamp(max=self.limit - 1)

    def head(self, adapted: bool = True) -> Tensor:
        """The output embedding (V, D)."""
        return weight_of(self._base.get_output_embeddings(), adapted)

    def learning(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name, in a fixed order."""
        named = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        return {**named, **{f"value_head.{name}": weight for name, weight in self.value_head.named_parameters()}}


def limit_of(config: Any) -> int | None:
    """How many tokens a model of this configuration can read at once, where that says so."""
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len", "seq_length"))
    limit = next((each for each in limits if isinstance(each, int) and each > 0), None)
    rope = getattr(text, "rope_parameters", None) or {}
    if limit is not None and rope.get("rope_type") == "yarn" and rope.get("original_max_position_embeddings"):
        return max(limit, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return limit


def build(settings: Settings) -> Policy:
    """The policy that the settings name, with a fresh adapter."""
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = settings.policy
    if name == "tiny":
        tokens: Tokens = CharTokens()
        options: Mapping[str, Any] = {"vocab_size": tokens.size, "answers": WHOLE, **settings.tiny}
        model: PreTrainedModel = build_tiny(settings.seed, **options)
        if settings.base_text:
            model = trained_on(model, tokens, Path(settings.base_text), settings.base_steps, settings.seed)
        learns = Learns(settings.rank, settings.alpha, LLAMA_MAPS, whole=("embed_tokens", "lm_head"))
    elif source := model_of(name):
        model, tokens = _pretrained(source, name, device, settings)
        learns = Learns(
            settings.rank,
            settings.alpha,
            settings.targets or attention_maps(model),
            EXPERTS if settings.experts else (),
        )
    else:
        raise UsageError(f"unknown policy {name}; it is {KINDS}")
    return of_model(model, tokens, name, learns, settings, device)


def of_model(
    model: PreTrainedModel, tokens: Tokens, name: str, learns: Learns, settings: Settings, device: torch.device
) -> Policy:
    """A policy around a model that is there already."""
    moved: Any = model
    return Policy(adapt(moved.to(device), learns, settings.seed), tokens, name, settings.checkpointing)


def _pretrained(place: str, name: str, device: torch.device, settings: Settings) -> tuple[PreTrainedModel, Tokens]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place) if settings.chat == "template" else None
        template = ChatTemplate(tokenizer, name) if tokenizer is not None else None
        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype_of(settings, device))
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} cannot be loaded: {error}") from None
    if tokenizer is None or template is None:
        return model, HarmonyTokens(model.config.vocab_size, settings.effort)
    ends = model.generation_config.eos_token_id if model.generation_config else None
    stops = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        stops.append(tokenizer.eos_token_id)
    return model, HfTokens(tokenizer, template, stops, model.config.vocab_size)
