"""Hooks that offer the task ``denoising`` and the verifier that scores denoisers."""

from __future__ import annotations

from collections.abc import Sequence

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> Sequence[Offer]:
    return [Offer("denoising", "find a denoiser for single-cell counts", "sia_denoising.task:Denoising")]


@hookimpl
def sia_verifiers() -> Sequence[Offer]:
    summary = "a denoiser's metrics, by molecular cross-validation"
    return [Offer("denoising", summary, "sia_denoising.verifier:DenoisingVerifier")]
