"""Hooks that offer the task ``trimul`` and the verifiers that run, check and time its kernels."""

from __future__ import annotations

from collections.abc import Sequence

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> Sequence[Offer]:
    return [Offer("trimul", "a fast kernel for AlphaFold's triangle multiplicative update", "sia_trimul.task:TriMul")]


@hookimpl
def sia_verifiers() -> Sequence[Offer]:
    return [
        Offer("trimul", "right on fresh inputs, and how fast beside a baseline", "sia_trimul.verifier:KernelJudge"),
        Offer("trimul-cuda", "the same on a CUDA device, by its microseconds", "sia_trimul.device:DeviceJudge"),
    ]
