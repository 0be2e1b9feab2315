"""Hooks that offer the task ``lawbench`` and the verifier that scores it."""

from __future__ import annotations

from collections.abc import Sequence

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> Sequence[Offer]:
    return [Offer("lawbench", "the criminal charge of a Chinese court case, out of 191", "sia_lawbench.task:LawBench")]


@hookimpl
def sia_verifiers() -> Sequence[Offer]:
    return [
        Offer(
            "lawbench",
            "right or wrong, by the court's own verdict",
            "sia_lawbench.verifier:ChargeVerifier",
        )
    ]
