"""Hooks of sia-algorithms."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_algorithms() -> list[Offer]:
    return [
        Offer("ppo", "clipped policy gradient with a critic (GAE); takes step rewards", "sia_algorithms.ppo:Ppo"),
        Offer("grpo", "rewards relative to their group; Dr.GRPO, DAPO, GSPO as settings", "sia_algorithms.grpo:Grpo"),
        Offer("entropic", "weighs the few best of a group, as in TTT-Discover", "sia_algorithms.entropic:Entropic"),
        Offer("reinforce", "leave-one-out baseline, held to the base by KL", "sia_algorithms.reinforce:Reinforce"),
        Offer("dpo", "preference pairs by rank inside a group", "sia_algorithms.dpo:Dpo"),
        Offer("best-of-n", "clones the best of each group; the cold start", "sia_algorithms.best_of_n:BestOfN"),
    ]
