"""The offers of sia-torch."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_engines() -> list[Offer]:
    return [
        Offer(
            "torch",
            "a small embedded policy (tiny), SmolLM2, or any causal LM (hf:ID, gguf:FILE), trained by LoRA",
            "sia_torch.team:open_engine",
        )
    ]
