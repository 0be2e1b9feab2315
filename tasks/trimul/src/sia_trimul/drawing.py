"""Inputs of a case as tensors, drawn on the device that uses them: a processor takes too long for gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sia_trimul.shapes import CAUCHY_SCALE, MASKED_SHARE, Shape, draw


def tensors(weights: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Arrays by name as tensors on a device."""
    return {name: torch.from_numpy(weight).to(device) for name, weight in weights.items()}


def drawn_on(device: str, shape: Shape, seed: int) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """x, mask, weights and config as :func:`sia_trimul.shapes.draw` gives them, of the same distributions."""
    _, _, weights, config = draw(replace(shape, n=1, b=1), seed)
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.empty(shape.b, shape.n, shape.n, shape.c, device=device)
    if shape.distribution == "cauchy":
        x.cauchy_(0, CAUCHY_SCALE, generator=generator)
    else:
        x.normal_(generator=generator)
    mask = torch.ones(x.shape[:3], device=device)
    if shape.masked:
        mask = (mask.uniform_(generator=generator) >= MASKED_SHARE).float()
    return x, mask, tensors(weights, device), config
