"""The verifier: deals the molecules, has the answer's module denoise one side, and compares with the other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sia_core.errors import UsageError
from sia_core.types import Instance, Limits, Score, VerifierContext
from sia_denoising.metrics import REWARDS, Judge
from sia_denoising.problems import Problems
from sia_denoising.reader import ENDINGS, NotCounts, located

MODULE = "denoiser"
REQUIRES = ("numpy", "scipy", "scikit-learn")
SECONDS = 60.0
"""The limit for one matrix; a second is usual."""

LIMITS = replace(Limits(), file_bytes=1 * 2**30, setup_seconds=60.0, solve_seconds=SECONDS)

WORST = -1.0
"""Denoising may do more harm than this, but no reward says so; an invalid answer earns as little."""

SHOWN = ("mse_norm", "poisson_norm", "balanced", "true_mse", "true_kl")


class DenoisingVerifier:
    """Scores an answer ``{"code", "plan"}`` by the metric ``reward``; all metrics stand beside it.

    On sealed instances so do MAGIC's, on the same molecules.

    The settings are the task's own. What is made up and drawn follows from the context's seeds,
    which no harness can predict: whoever could would draw the molecules again. The module runs in
    its own sandbox, once a score, and is given the train side alone: a matrix of int32, cells x genes.
    """

    def __init__(
        self, data: str | None = None, sealed_data: str | None = None, reward: str = "mse_norm", seed: int = 0
    ) -> None:
        self._reward, self._settings = checked_reward(reward), (data, sealed_data, seed)
        self._latest: Problems | None = None

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """The metrics of what the module makes of the train side."""
        judge = self._problems(ctx).judge(instance.id, instance.split, ctx.seed, final=ctx.final)
        files = {f"{MODULE}.py": str(answer["code"]).encode()}
        with ctx.open(files, MODULE, requires=REQUIRES, limits=LIMITS) as program:
            called = program.call("denoise", [judge.train.astype(np.int32)], seconds=SECONDS)
        if called.ended != "ok":
            return Score(WORST, valid=False, feedback=f"{called.ended}: {called.message}")
        if fault := judge.fault(called.value):
            return Score(WORST, valid=False, feedback=fault)
        metrics = judge.measure(called.value)
        beside = of_magic(judge) if instance.split == "sealed" else {}
        return Score(
            max(WORST, metrics[self._reward]),
            metrics={**metrics, "seconds": called.seconds, **beside},
            feedback=", ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics),
        )

    def _problems(self, ctx: VerifierContext) -> Problems:
        """The data of the run that the context is of."""
        if self._latest is None or self._latest.tissue != ctx.data_seed:
            self._latest = Problems(*self._settings, tissue=ctx.data_seed)
        return self._latest


def of_magic(judge: Judge) -> Mapping[str, float]:
    """MAGIC's metrics there, prefixed ``magic_``."""
    metrics = judge.measure(judge.magic)
    return {f"magic_{name}": metrics[name] for name in SHOWN if name in metrics}


def checked_reward(reward: str) -> str:
    """The name of a metric; UsageError where it is none."""
    if reward not in REWARDS:
        raise UsageError(f"denoising: --set reward={reward} is none of {', '.join(REWARDS)}")
    return reward


def checked_file(option: str, path: str | None) -> str | None:
    """The file's absolute place, which other processes find too; UsageError where there is none."""
    if path is None:
        return None
    try:
        file = located(Path(path))
    except NotCounts as error:
        raise UsageError(f"denoising: {option} {error}") from None
    if not file.is_file():
        raise UsageError(f"denoising: {option} {path} is not a file; name one of counts: {', '.join(ENDINGS)}")
    return os.path.abspath(file)


def settings(data: str | None, sealed_data: str | None, reward: str, seed: int) -> Mapping[str, Any]:
    """The settings that task and verifier share, checked."""
    return {
        "data": checked_file("--data", data),
        "sealed_data": checked_file("--set sealed_data", sealed_data),
        "reward": checked_reward(reward),
        "seed": seed,
    }
