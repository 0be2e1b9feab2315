"""Hooks of sia-tinker."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_engines() -> list[Offer]:
    return [Offer("tinker", "the Tinker API, or a server that speaks its protocol", "sia_tinker.engine:open_engine")]
