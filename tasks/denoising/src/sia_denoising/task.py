"""The task: find a module whose ``denoise(counts)`` predicts the molecules that were held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Split
from sia_denoising.cheats import cheats
from sia_denoising.export import files_of
from sia_denoising.metrics import AMPLE, LIFTED, MOVED, SURPRISE
from sia_denoising.picture import picture
from sia_denoising.problems import SIZES, Problems
from sia_denoising.verifier import MODULE, WORST, settings

HERE = Path(__file__).parent

PICTURED = 500
"""Cells in the picture; never sealed ones."""

BRIEF = """\
Find a denoiser for single-cell counts: a Python module with `denoise(counts)`, which takes a
numpy array of int32 (cells x genes) and returns expected counts of the same shape: floats,
finite and not negative. It may import numpy, scipy and scikit-learn, has no network and no
file, two cores and {seconds:.0f} seconds; a second is usual.

Molecules are dealt to two sides, train ~ Binomial(counts, 0.9) and test. The module sees train
alone. The reward is {reward}: {meaning}
0 is what train itself earns, 1 what test itself would. An answer is invalid if it empties a cell, or
moves mass to where no molecules are: if any gene's mean share of a cell's counts moves by more than
{moved}, if more than {lifted} of the mass lies beyond {ample:g} times what the counts or MAGIC give those genes, or
if its shares of a cell explain the molecules of test worse than MAGIC's do, by more than {surprise} nats each.

An answer is {{"code": MODULE, "plan": PLAN or null}}. The harness defines `solve(instance, ctx)`,
which proposes answers, may have `ctx.evaluations` of them scored by `ctx.evaluate(answer)` on cells
of the instance's own, and returns the best; other cells decide what it is worth. With no
evaluations it returns one proposal. `instance.start`, where it is not None, holds an earlier
answer to build on. The data: {data}, {cells} cells x {genes} genes at a time.
"""

BETTER: dict[str, Literal["maximize", "minimize"]] = {
    "mse_norm": "maximize",
    "poisson_norm": "maximize",
    "surprise": "minimize",
    "true_mse": "minimize",
    "true_kl": "minimize",
}
"""Where metrics beside the reward are better."""

RULES = {"moved": MOVED, "lifted": LIFTED, "ample": AMPLE, "surprise": SURPRISE}

MEANING = {
    "mse_norm": "the mean squared difference after scaling to 10,000 a cell and log1p, normalised.",
    "poisson_norm": "the Poisson likelihood of test, normalised.",
    "poisson_official": "the Poisson figure as a public benchmark computes it, arguments swapped; for comparison.",
    "balanced": "the mean of the normalised squared error of logs and of the normalised Poisson likelihood.",
}


class DenoiserAnswer(BaseModel):
    """A module that denoises, and the plan that it was rendered from, if it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = Field(min_length=1, max_length=64_000)
    plan: dict[str, str] | None = None


def digest_of(text: str) -> str:
    """A name that says nothing of what it is of."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Denoising:
    """Task ``denoising``.

    ``data`` is a file of counts (``.npz``, ``.h5ad``, or what 10x writes), without which a tissue of known
    truth is made up; ``sealed_data`` another one, which the search never sees and the report is
    on; ``reward`` one of the metrics. ``seed`` decides which cells go to which split.
    """

    name = "denoising"
    kind: Kind = "discover"
    evaluations = 2
    answer = DenoiserAnswer
    failure_reward = WORST
    limits = Limits(solve_seconds=300.0)

    def __init__(
        self, data: str | None = None, sealed_data: str | None = None, reward: str = "mse_norm", seed: int = 0
    ) -> None:
        options = settings(data, sealed_data, reward, seed)
        self._problems = Problems(options["data"], options["sealed_data"], seed)
        self.metric = Metric(reward, bounds=None, beside={k: v for k, v in BETTER.items() if k != reward})
        self.verifier = OfferRef("denoising", options)
        self.fingerprint = hashlib.sha256(f"{self._problems.digest} {reward}".encode()).hexdigest()
        cells, genes, _ = self._problems.shape("search")
        about = {"reward": reward, "meaning": MEANING[reward], "data": self._problems.name, **RULES}
        self.brief = BRIEF.format(cells=cells, genes=genes, seconds=60, **about)

    def instances(self, split: Split) -> Sequence[Instance]:
        """Draws of the split's molecules. What they are drawn with, and in which split it is, a harness is not told."""
        if not SIZES[split]:
            return []
        # Search and gate are alike in size; the depth of one's own cells would tell them apart.
        cells, genes, depth = self._problems.shape("sealed" if split == "sealed" else "search")
        fields = {"data": self._problems.name, "cells": cells, "genes": genes, "depth": depth}
        names = [digest_of(f"{self.fingerprint} {split} {place}") for place in range(SIZES[split])]
        return [Instance(name, split, {**fields, "draw": name}) for name in names]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder without counts: a harness has answers evaluated, and learns from that alone."""
        if "sealed" in splits:
            raise UsageError("denoising: the sealed cells are for the report alone; ask for public, search or gate")
        return write_once(cache_folder("denoising"), {"brief.txt": self.brief.encode()})

    def seed_harness(self) -> HarnessTree:
        """MAGIC, and variations of it."""
        return HarnessTree.from_folder(HERE / "seed")

    def playbook(self) -> Playbook:
        """The catalogue of edits in ``playbook.toml``."""
        return Playbook.from_toml(HERE / "playbook.toml")

    def cheats(self, answer: Any) -> Mapping[str, Any]:
        """Denoisers made worse on purpose, which `sia audit` tries."""
        return cheats(answer)

    def artefact(self, answer: Any) -> Mapping[str, bytes]:
        """The denoiser as a module and a command, how to use it, and where matplotlib is installed a picture."""
        code = str(answer["code"])
        counts = self._problems.pool("search").counts[:PICTURED].toarray()
        image = picture(code, MODULE, counts)
        return {**files_of(code, MODULE), **({"before-and-after.png": image} if image else {})}
