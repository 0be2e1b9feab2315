"""What sia-playbook offers."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_improvers() -> list[Offer]:
    return [
        Offer(
            "playbook",
            "a bandit over a catalogue of edits and weight updates; no model",
            "sia_playbook.improver:Bandit",
        )
    ]
