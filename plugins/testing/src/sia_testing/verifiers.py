"""The contract of verifiers, for plugin authors to inherit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NoReturn

import pytest

from sia_core.types import Instance, Score, Verifier, VerifierContext
from sia_testing.draws import watched

SECRETS = ((0x5E1D, 0xDA7A), (0xB0B5EED, 0xB0BDA7A))
"""The seeds of two runs with different secrets, which are told the same of everything else."""


@dataclass(frozen=True)
class Judged:
    """An ``instance``, an answer that is ``right``, and one that is ``wrong``, plain JSON as the task gives it."""

    instance: Instance
    right: Any
    wrong: Any


class VerifierContract:
    """``class TestMine(VerifierContract)`` with fixtures ``make`` and ``judged``.

    ``make()`` gives the verifier as its process makes it; ``judged`` is a list of
    :class:`Judged`, two at least. One that runs what it judges gives a fixture ``ctx`` too.
    """

    @pytest.fixture
    def ctx(self) -> VerifierContext:
        return context()

    def test_what_is_right_earns_more_than_what_is_wrong(
        self, make: Callable[[], Verifier], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        verifier = make()
        assert isinstance(verifier, Verifier)
        for each in judged:
            right, wrong = (verifier.score(each.instance, answer, ctx) for answer in (each.right, each.wrong))
            assert right.valid
            assert right.reward > wrong.reward

    def test_a_score_is_made_of_numbers_that_json_can_hold(
        self, make: Callable[[], Verifier], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        verifier = make()
        for each in judged:
            for answer in (each.right, each.wrong):
                score = verifier.score(each.instance, answer, ctx)
                assert isinstance(score, Score)
                assert isinstance(score.valid, bool)
                assert isinstance(score.feedback, str)
                assert all(math.isfinite(value) for value in (score.reward, *score.metrics.values()))

    def test_the_same_answer_earns_the_same_whenever_and_wherever_it_is_asked(
        self, make: Callable[[], Verifier], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        cases = [(each.instance, answer) for each in judged for answer in (each.right, each.wrong)]
        one = make()
        first = [one.score(instance, answer, ctx) for instance, answer in cases]
        again = [one.score(instance, answer, ctx) for instance, answer in reversed(cases)][::-1]
        other = make()
        elsewhere = [other.score(instance, answer, ctx) for instance, answer in cases]
        assert first == again, "it is not deterministic, or remembers what it was asked before"
        assert first == elsewhere, "another process would give another score"

    def test_what_it_draws_follows_from_the_contexts_seeds_and_nobody_can_predict_it(
        self, make: Callable[[], Verifier], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        cases = [(each.instance, answer) for each in judged for answer in (each.right, each.wrong)]
        assert not predictable(make, cases, ctx)

    def test_it_leaves_what_it_is_given_as_it_is(
        self, make: Callable[[], Verifier], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        verifier = make()
        for each in judged:
            before = copy.deepcopy((each.instance, each.right))
            verifier.score(each.instance, each.right, ctx)
            assert (each.instance, each.right) == before


def predictable(make: Callable[[], Verifier], cases: Sequence[tuple[Instance, Any]], ctx: VerifierContext) -> set[str]:
    """The generators that a verifier draws from alike in runs with different secrets, as a harness could, too.

    A verifier that draws takes its seeds from ``ctx.seed`` and ``ctx.data_seed``, or from the system's
    randomness: an instance's id or input, the run's seed and a number in the code are known to everybody.
    """
    drawn = []
    for seed, data_seed in SECRETS:
        with watched() as seeds:
            verifier = make()
            for instance, answer in cases:
                verifier.score(instance, answer, replace(ctx, seed=seed, data_seed=data_seed))
        drawn.append(seeds)
    return set.intersection(*drawn)


def context() -> VerifierContext:
    """The context of a verifier that runs nothing: every way to run something fails the test."""
    stubs: dict[str, Any] = {field.name: _runs_nothing for field in fields(VerifierContext) if field.default is MISSING}
    return VerifierContext(**{**stubs, "seed": 0})


def _runs_nothing(*arguments: Any, **settings: Any) -> NoReturn:
    raise AssertionError("the verifier runs something; give the contract a fixture `ctx` that can")
