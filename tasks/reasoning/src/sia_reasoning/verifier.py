"""The verifier: knows the answers, and has the data set's own scorer say what an answer is worth."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sia_core.errors import UsageError
from sia_core.types import Instance, Score, Split, VerifierContext
from sia_reasoning.cases import SPLITS, Case
from sia_reasoning.settings import Settings

LEARNT_FROM: frozenset[Split] = frozenset({"public", "search"})
"""The splits that an improver learns from: feedback on them, and on no other, may name a right answer."""

SHOWN = 200
"""Characters of a right answer in feedback."""


class ReasoningVerifier:
    """Scores an answer ``{"answer": TEXT}`` from 0 to 1. The settings are the task's own."""

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings.of(**settings)
        self._source = self._settings.source()

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """The scorer's verdict. No code of the candidate runs, so ``ctx`` is not used."""
        case = self._case(instance)
        reward, fault = self._source.score(case, answer["answer"])
        if instance.split not in LEARNT_FROM:
            return Score(reward)
        if reward == 1.0:
            return Score(reward, feedback="right")
        (right,) = self._source.answers([case])
        feedback = f"wrong: it is {right[:SHOWN]}" if right else "wrong"
        return Score(reward, feedback=f"{feedback} ({fault})" if fault else feedback)

    def _case(self, instance: Instance) -> Case:
        try:
            case = self._cases[instance.id]
        except KeyError:
            raise UsageError(
                f"reasoning: no case {instance.id!r} in {self._settings.dataset} with seed {self._settings.seed}; "
                "give the verifier the settings that the task has"
            ) from None
        return case

    @cached_property
    def _cases(self) -> Mapping[str, Case]:
        return {case.id: case for split in SPLITS for case in self._source.deal[split]}
