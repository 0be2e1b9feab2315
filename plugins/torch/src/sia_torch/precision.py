"""The number type that a policy's base computes in. What learns is float32 whatever that is."""

from __future__ import annotations

from pathlib import Path

import torch

from sia_torch.settings import Settings

_CPUINFO = Path("/proc/cpuinfo")
_FAST = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors, x86's and Arm's, that multiply matrices of bfloat16 natively: elsewhere it is slower."""


ROUNDING = {torch.float32: 0.002, torch.bfloat16: 0.06}
"""How far log-probabilities at temperature 1 may lie apart on the mean for rounding's sake, in nats.

Twice what SmolLM2-135M-Instruct shows: 0.04 at temperature 0.7 in bfloat16, with 0.003 nats of KL and gaps of
up to 0.46 on single tokens. In float32 it is below 0.00001.
"""


def tolerance_of(settings: Settings, dtype: torch.dtype) -> float:
    """The largest mean difference of log-probabilities between sampler and trainer, in nats."""
    return settings.tolerance or ROUNDING.get(dtype, ROUNDING[torch.bfloat16]) / settings.temperature


def dtype_of(settings: Settings, device: torch.device) -> torch.dtype:
    """The type of a pretrained policy's base, by the setting ``dtype``."""
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _processor_has_it()
    return torch.bfloat16 if fast else torch.float32


def _processor_has_it() -> bool:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(_FAST & {*flags.split()})
