"""Base training of ``tiny``: next tokens of plain text, once for the same text and settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch.nn import functional

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_torch.tokens import Tokens

WINDOW, BATCH, RATE = 128, 16, 3e-3
WEIGHTS = "model.safetensors"
VERSION = 1
"""Part of the cache's key; goes up with whatever changes the result."""


def trained_on(model: Any, tokens: Tokens, text: Path, steps: int, seed: int) -> Any:
    """The model after ``steps`` of next-token training on the text, from the cache where it is there."""
    try:
        content = text.read_bytes()
    except OSError as error:
        raise UsageError(f"the base text {text} cannot be read: {error.strerror}") from None
    about = [VERSION, model.config.to_json_string(), steps, seed, hashlib.sha256(content).hexdigest()]
    folder = cache_folder("torch-base") / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    files = sorted(folder.glob(f"*/{WEIGHTS}"))
    if not files:
        ids = tokens.encode(content.decode("utf-8", "replace"))
        if len(ids) <= WINDOW:
            raise UsageError(f"the base text {text} is too short: {len(ids)} tokens, and a window has {WINDOW}")
        _train(model, torch.tensor(ids), steps, seed)
        state = {name: weight.contiguous() for name, weight in model.state_dict().items()}
        files = [write_once(folder, {WEIGHTS: save(state)}) / WEIGHTS]
    # From the file in either case: the first run and the next compute with the same numbers.
    model.load_state_dict(load_file(files[0]))
    return model


def _train(model: Any, ids: torch.Tensor, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    spans = torch.arange(WINDOW + 1)
    for _ in range(steps):
        starts = torch.randint(len(ids) - WINDOW, (BATCH, 1), generator=generator)
        some = ids[starts + spans]
        logits = model(input_ids=some[:, :-1], use_cache=False).logits
        loss: Any = functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
