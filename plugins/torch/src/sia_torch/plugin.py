"""What sia-torch offers."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_engines() -> list[Offer]:
    return [
        Offer(
            "torch",
            "a small embedded policy (tiny) or any causal LM (hf:ID), trained by LoRA on this machine",
            "sia_torch.engine:Torch",
        )
    ]
