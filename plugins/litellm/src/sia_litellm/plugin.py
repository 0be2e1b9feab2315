"""Hooks of sia-litellm."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_engines() -> list[Offer]:
    return [Offer("litellm", "a model served elsewhere as the policy; it is not trained", "sia_litellm.policy:Served")]


@hookimpl
def sia_improvers() -> list[Offer]:
    return [Offer("litellm", "any language model, hosted or local: litellm:MODEL", "sia_litellm.improver:LiteLLM")]
