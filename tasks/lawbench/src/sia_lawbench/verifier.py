"""The verifier: holds the court's labels, and says whether a charge is the right one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sia_core.errors import UsageError
from sia_core.types import Instance, Score, Split, VerifierContext
from sia_lawbench.data import Data, read_rows
from sia_lawbench.source import SEALED_LABELS, locate

LEARNT_FROM: frozenset[Split] = frozenset({"public", "search"})
"""The splits that an improver learns from: feedback on them, and on no other, may name the true charge."""


class ChargeVerifier:
    """Scores an answer ``{"charge": name}``: 1.0 where the court convicted of that charge, else 0.0.

    ``data`` and ``seed`` are the task's own settings.
    """

    def __init__(self, data: str | None = None, seed: int = 0) -> None:
        self._data = Data(locate(data), seed)
        self._labels: dict[Split, Mapping[str, str]] = {}

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Right or wrong. Nothing is run, so ``ctx`` is not used."""
        truth = self._truth(instance)
        named = answer.get("charge") if isinstance(answer, Mapping) else None
        if named not in self._data.charges:
            return Score(0.0, valid=False, feedback="the answer names none of the charges in charges.json")
        right = named == truth
        if instance.split not in LEARNT_FROM:
            return Score(float(right))
        return Score(float(right), feedback="right" if right else f"wrong: the court's charge is {truth}, not {named}")

    def _truth(self, instance: Instance) -> str:
        if instance.split not in self._labels:
            self._labels[instance.split] = self._read_labels(instance.split)
        try:
            return self._labels[instance.split][instance.id]
        except KeyError:
            raise UsageError(
                f"lawbench: no {instance.split} case {instance.id!r} in {self._data.source.path} with seed "
                f"{self._data.seed}; give the verifier the data and seed that the task has"
            ) from None

    def _read_labels(self, split: Split) -> Mapping[str, str]:
        if split != "sealed":
            return {case.id: case.charge for case in self._data.labelled[split]}
        of_row = {row[0]: row[1] for row in read_rows(self._data.source, SEALED_LABELS, ("id", "label"))}
        rows = {row for row, label in of_row.items() if label in self._data.charges}
        unlabelled = [question.row for question in self._data.sealed if question.row not in rows]
        if unlabelled:
            raise UsageError(
                f"lawbench: {SEALED_LABELS} in {self._data.source.path} has no known charge for row {unlabelled[0]!r}; "
                f"compare it with the file in the wheel of sia-agent 0.6.0"
            )
        return {question.id: of_row[question.row] for question in self._data.sealed}
