"""LoRA on a causal LM, in PEFT's terms: what learns, and whether the adapter touches what was asked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sia_core.errors import UsageError

NAME = "default"
FULL = 4
"""Bytes of a number of full precision."""
FEWEST, FEW = 2, 32
"""Rows of a product: at least this many, as one alone is rounded otherwise; and those that weights are laid out for."""
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@dataclass(frozen=True)
class Learns:
    """The parts of a model that learn: linear maps by LoRA, 3-D expert parameters by LoRA, and whole modules."""

    rank: int
    alpha: int
    modules: Sequence[str]
    parameters: Sequence[str] = ()
    whole: Sequence[str] = ()


def attention_maps(model: nn.Module) -> list[str]:
    """The names of the linear maps inside attention, without their path."""
    names = {
        name
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
        for name, child in module.named_children()
        if isinstance(child, nn.Linear | Conv1D)
    }
    if not names:
        raise UsageError(f"{type(model).__name__} has no linear maps in attention; name the modules to train yourself")
    return sorted(names)


def adapt(model: PreTrainedModel, learns: Learns, seed: int) -> PeftModel:
    """The model with a fresh adapter, checked to touch what was asked in every layer that has it."""
    config = LoraConfig(
        r=learns.rank,
        lora_alpha=learns.alpha,
        lora_dropout=0.0,  # the sampler has none, and PEFT allows none on expert parameters
        target_modules=list(learns.modules),
        target_parameters=list(learns.parameters) or None,
        modules_to_save=list(learns.whole) or None,
        task_type="CAUSAL_LM",
    )
    expected = _expected(model, learns)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a deprecated name; gone with a later PEFT.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        peft = get_peft_model(model, config)
    missing = expected - _touched(peft)
    if missing:
        raise UsageError(
            f"the adapter leaves out {', '.join(sorted(missing)[:4])}; check the names of what should learn"
        )
    return peft


def _expected(model: nn.Module, learns: Learns) -> set[str]:
    """Full names of what should learn; UsageError where a name fits nothing."""
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    matches: set[str] = set()
    for names, patterns in ((modules, [*learns.modules, *learns.whole]), (parameters, learns.parameters)):
        for each in patterns:
            fits = {name for name in names if f".{name}".endswith(f".{each}")}
            if not fits:
                raise UsageError(f"{type(model).__name__} has nothing named {each} to train")
            matches |= fits
    return matches


def _touched(peft: PeftModel) -> set[str]:
    """Full names, in the base model, of the modules and parameters that have trainable weights."""
    touched = set()
    for name, module in peft.get_base_model().named_modules():
        trains = any(weight.requires_grad for weight in module.parameters())
        if isinstance(module, LoraLayer | ModulesToSaveWrapper) and trains:
            # PEFT nests the wrappers of several parameters of one module in base_layer.
            plain = name.replace(".base_layer", "")
            parameter = getattr(module, "parameter_name", None)
            touched.add(f"{plain}.{parameter}" if parameter else plain)
    return touched


def weight_of(module: Any, adapted: bool) -> Tensor:
    """The weight that a module computes with, differentiable where it is a whole one's that learns."""
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[NAME] if adapted else module.original_module
    weight: Tensor = module.weight
    return weight


def by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by this weight: from ``FEWEST`` on, it rounds a row alike however many there are."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    # None of these is public, so another torch may lack them.
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Map:
    """A linear map of a decoder: ``weight`` (O, I), ``bias`` (O,), and beside them what an adapter adds.

    In half precision an adapter that is added to a weight is lost where it is less than half
    of the weight's last digit. So its first map is further rows of ``weight`` and ``bias``,
    and its second ``up`` (r, O).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, up: Tensor | None = None) -> None:
        self._by_onednn, self._bias, self._up = by_onednn(weight), bias, up
        # It would lay the weight out for its kernel in each product, which takes as long as half of one with few rows.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, FEW) if self._by_onednn else weight

    def __call__(self, states: Tensor) -> Tensor:
        if self._by_onednn:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        else:
            result = functional.linear(states, self._weight, self._bias)
        if self._up is None:
            return result
        width, flat = self._up.shape[1], result.view(-1, result.shape[-1])
        return torch.addmm(flat[:, :width], flat[:, width:], self._up).view(*states.shape[:-1], width)


def fused(modules: Sequence[Any]) -> Map:
    """Linear maps that read the same states as one map, with their adapters merged in, or apart in half precision."""
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else _joined([each.detach() for each in biases])
    plain: list[Tensor | None] = [_under_adapter(module) for module in modules]
    if all(weight is None or weight.element_size() >= FULL for weight in plain):
        return Map(_joined([merged(module) for module in modules]), bias)
    weights = [merged(module) if own is None else own.detach() for module, own in zip(modules, plain, strict=True)]
    adapters = [
        (module.lora_A[NAME].weight.detach(), module.lora_B[NAME].weight.detach() * module.scaling[NAME])
        if own is not None
        else (each.new_zeros(0, each.shape[1]), each.new_zeros(len(each), 0))
        for module, own, each in zip(modules, plain, weights, strict=True)
    ]
    weight, up = _joined(weights), torch.block_diag(*(each for _, each in adapters))  # type: ignore[no-untyped-call]
    if not up.any():
        return Map(weight, bias)
    down = torch.cat([each.to(weight.dtype) for each, _ in adapters])
    bias = None if bias is None else functional.pad(bias, (0, len(down)))
    return Map(torch.cat([weight, down]), bias, up.to(weight.dtype).T.contiguous())


def _under_adapter(module: Any) -> Tensor | None:
    """The weight of a map that is under LoRA."""
    if not isinstance(module, LoraLayer):
        return None
    layer: Any = module
    weight: Tensor = layer.get_base_layer().weight
    return weight


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def merged(module: Any) -> Tensor:
    """W, or W + (alpha / r) B A where the module is under LoRA. Not differentiable."""
    with torch.no_grad():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weight: Tensor = layer.get_base_layer().weight
            delta: Tensor = layer.get_delta_weight(NAME)
            return (weight + delta.to(weight.dtype)).detach()
        return weight_of(module, adapted=True).detach()
