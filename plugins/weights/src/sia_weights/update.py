"""A weight update as the driver orders it, and as JSON in the job that trains (:mod:`sia_weights.train_job`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sia_core.decision import Training
from sia_core.types import Json, OfferRef


@dataclass(frozen=True)
class Update:
    """The subject and settings of a weight update; JSON in a job. ``key`` names it in the ledger.

    Rollouts begin with the ``starts`` in turn, earlier answers, where there are any. No search
    instance that is ``held_out`` is trained on.
    """

    key: str
    agent: str
    harness: str
    adapter: str | None
    algorithm: OfferRef
    training: Training
    starts: Sequence[Json] = ()
    held_out: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "training": self.training.model_dump()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Update:
        algorithm, training = OfferRef(**value["algorithm"]), Training.model_validate(value["training"])
        return cls(**{**value, "algorithm": algorithm, "training": training})
