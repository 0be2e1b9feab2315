"""An estimate of the memory that training takes, in bytes: within a third of what it took in the cases measured.

SmolLM2-135M, LoRA 32, 100 + 48 tokens in groups of 8: 1,390 kB a position of 1,411 in bfloat16, and 2,340 of 2,456 in
float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from sia_torch.settings import Settings
from sia_torch.tree import Shape

USUAL = Shape(prefix=256, branches=8, width=64)
"""How rows are divided where none was seen yet."""

_STATM, _PAGE = Path("/proc/self/statm"), 4096


def resident() -> float:
    """Bytes that this process holds now; 0 where the system does not say."""
    try:
        return float(_STATM.read_text().split()[1]) * _PAGE
    except OSError:  # not Linux
        return 0.0


def local_size(weight: Tensor) -> int:
    """Bytes of what this process holds of a weight."""
    held = weight.to_local() if isinstance(weight, DTensor) else weight
    return held.numel() * held.element_size()


def activations(config: Any, settings: Settings, size: int, shape: Shape, rows: int) -> float:
    """Bytes of a micro-batch of this many rows on the way back; ``size`` is that of a number of the base.

    A layer keeps, a position: 9 D numbers of attention and norms, 4 I of a gated MLP, and three times the scores of
    H heads; and 4 D in float32, for norms and adapters. On top are two chunks of logits in float32, and one in the
    base's type.
    """
    positions, width = shape.root + rows * shape.tokens, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    scores = 3 * config.num_attention_heads * (shape.before + shape.width)
    layer = size * (9 * width + 4 * inner + scores) + 16 * width
    layers = config.num_hidden_layers
    per_position = layer + layers * size * width if settings.checkpointing else layer * layers
    outputs = rows * shape.branches * shape.width
    return float(positions * per_position + outputs * min(settings.vocabulary_chunk, config.vocab_size) * (8 + size))


def at_most(config: Any, settings: Settings, size: int) -> float:
    """The same of a micro-batch that is full."""
    rows = max(1, settings.micro_tokens // USUAL.tokens)
    return activations(config, settings, size, USUAL, rows)
