"""Hooks of sia-playbook."""

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
        ),
        Offer(
            "learned",
            "the playbook's changes, lever and algorithm by what they earned in earlier runs",
            "sia_playbook.learned:Learned",
        ),
        Offer(
            "fixed-alternation",
            "the playbook's changes, an edit and an update in turn; to compare with",
            "sia_playbook.references:FixedAlternation",
        ),
        Offer(
            "random-choice",
            "the playbook's changes, lever and algorithm by chance; to compare with",
            "sia_playbook.references:RandomChoice",
        ),
        Offer(
            "best-of-n",
            "the playbook's changes of the first agent, the best of which stays; to compare with",
            "sia_playbook.references:BestOfN",
        ),
    ]
