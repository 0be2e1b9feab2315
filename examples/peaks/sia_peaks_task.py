"""A task of kind ``discover``: the best answer is the result, and agents are compared by how well they search."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Score, Split, VerifierContext

HERE = Path(__file__).parent / "agent"
SIZES = {"public": 0, "search": 4, "gate": 24, "sealed": 12}


class Square(BaseModel):
    """A square of the board, by its column and row."""

    column: int = Field(ge=0, lt=32)
    row: int = Field(ge=0, lt=32)


class Peaks:
    """Task ``peaks``. Every instance is the same board, measured on another day."""

    name = "peaks"
    kind: Kind = "discover"
    evaluations = 8
    brief = "Find the highest square of a board of 32 by 32. `ctx.evaluate` reads a square's height, with noise."
    metric = Metric("height", unit="m", bounds=None)
    answer = Square
    verifier = OfferRef("peaks")
    failure_reward = 0.0
    limits = Limits(solve_seconds=5.0)
    fingerprint = "peaks 1"

    def __init__(self, seed: int = 0) -> None:
        pass

    def instances(self, split: Split) -> Sequence[Instance]:
        # An id tells a harness nothing of the split that it stands in.
        days = [hashlib.sha256(f"peaks {split} {day}".encode()).hexdigest()[:12] for day in range(SIZES[split])]
        return [Instance(day, split, {"day": day}) for day in days]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        return HERE / "public"

    def seed_harness(self) -> HarnessTree:
        return HarnessTree.from_folder(HERE / "harness")

    def playbook(self) -> Playbook | None:
        return Playbook.from_toml(HERE / "playbook.toml")

    def artefact(self, answer: Any) -> Mapping[str, bytes]:
        return {"square.json": json.dumps(answer).encode()}


class Altimeter:
    """Scores a square by its height. An evaluation is noisy; the final answer is read without noise."""

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        column, row = answer["column"], answer["row"]
        height = 60 * math.exp(-((column - 21) ** 2 + (row - 9) ** 2) / 120) + 40 * math.exp(
            -((column - 6) ** 2 + (row - 25) ** 2) / 30
        )
        noise = random.Random(f"{ctx.seed} {column} {row}").gauss(0, 0.0 if ctx.final else 1.0)
        return Score(round(height + noise, 6), feedback=f"{height + noise:.1f} m")
