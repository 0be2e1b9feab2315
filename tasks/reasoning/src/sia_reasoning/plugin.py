"""The offers of this distribution: the task ``reasoning`` and the verifier that scores it."""

from __future__ import annotations

from collections.abc import Sequence

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> Sequence[Offer]:
    return [
        Offer(
            "reasoning",
            "sums in words, or a data set of reasoning-gym by its name (--set dataset=)",
            "sia_reasoning.task:Reasoning",
        )
    ]


@hookimpl
def sia_verifiers() -> Sequence[Offer]:
    return [Offer("reasoning", "by the data set's own scorer", "sia_reasoning.verifier:ReasoningVerifier")]
