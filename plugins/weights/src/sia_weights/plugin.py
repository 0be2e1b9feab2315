"""The weight lever."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_levers() -> list[Offer]:
    return [
        Offer("weights", "training of the policy that agents ask", "sia_weights.lever:WeightLever"),
    ]
