"""What sia-playbook offers."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_improvers() -> list[Offer]:
    return [
        Offer("playbook", "a bandit over the task's own catalogue of edits; no model", "sia_playbook.improver:Bandit")
    ]
