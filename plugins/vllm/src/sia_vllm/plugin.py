"""Hooks of sia-vllm."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_engines() -> list[Offer]:
    return [Offer("vllm", "samples by vLLM servers, trains by another engine", "sia_vllm.engine:open_engine")]
