"""Losses for tests, in the shape that learners have."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sia_core.learning import Batch


def weighted(
    logprobs_BT: Tensor, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Policy gradient and a critic's square error."""
    policy = -(batch.advantages_BT * logprobs_BT * batch.mask_BT).sum()
    error = ((values_BT - batch.returns_BT) ** 2 * batch.mask_BT).sum()
    return (policy + 0.5 * error) / batch.normaliser, {"tokens": batch.mask_BT.sum()}


def broken(
    logprobs_BT: Tensor, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    return logprobs_BT.sum() * float("nan"), {}


def out_of_memory(
    logprobs_BT: Tensor, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Fails on the way back, in one process."""

    def fail(gradient: Tensor) -> None:
        raise RuntimeError("out of memory")

    if settings["process"] == os.getpid():
        logprobs_BT.register_hook(fail)
    return logprobs_BT.sum(), {}


def killed(
    logprobs_BT: Tensor, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Ends one process."""
    if settings["process"] == os.getpid():
        os.kill(os.getpid(), signal.SIGKILL)
    return logprobs_BT.sum(), {}


def flat(
    logprobs_BT: Tensor, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    return logprobs_BT.sum() * 0.0, {}
