"""Hooks of sia-claude."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_improvers() -> list[Offer]:
    return [
        Offer(
            "claude", "Claude reads trajectories and decides what to change; needs a key", "sia_claude.improver:Claude"
        )
    ]
