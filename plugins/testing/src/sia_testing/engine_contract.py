"""The contract of engines, for plugin authors to inherit: what is sampled, scored, trained, kept and loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import mul
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sia_core.learning import Batch, Datum, Engine, Request, Sampled, Trace

ABILITIES = frozenset({"train", "values", "reference", "custom_loss", "constrain"})
CHOICES = ("a red one", "a blue one", "none")
LOSS = "sia_testing.engine_contract:policy_gradient"


class EngineContract:
    """``class TestMine(EngineContract)`` with a fixture ``make``: ``make()`` gives the engine, small and as it begins.

    ``tolerance`` is how far log-probabilities at sampling and now may lie apart, in nats.
    An engine without weights, such as a fake, sets ``learns`` to False.
    """

    tolerance: ClassVar[float] = 1e-3
    learns: ClassVar[bool] = True

    def test_it_has_every_part_of_an_engine(self, make: Callable[[], Engine]) -> None:
        engine = make()
        assert isinstance(engine, Engine)
        assert engine.can <= ABILITIES
        assert engine.learning_rate > 0
        assert {"needed", "peak"} <= engine.memory().keys()
        text = "what is 2 + 2?"
        assert engine.tokens.decode(engine.tokens.encode(text)) == text
        assert all(0 <= each < engine.tokens.size for each in _prompt(engine))

    def test_a_request_gets_a_sample_for_each_seed_within_its_length(self, make: Callable[[], Engine]) -> None:
        engine = make()
        (samples,) = engine.sample([Request(_prompt(engine), [1, 2, 3], max_tokens=6)])
        assert len(samples) == 3
        for each in samples:
            assert 1 <= len(each.tokens) <= 6
            assert len(each.tokens) == len(each.mask) == len(each.logprobs) == len(each.values)
            assert each.finish in ("stop", "length")
            assert all(math.isfinite(number) and number <= 0 for number in each.logprobs)
            assert (each.finish == "length") <= (len(each.tokens) == 6)

    def test_neither_order_nor_company_changes_what_is_sampled(self, make: Callable[[], Engine]) -> None:
        engine = make()
        requests = [Request(_prompt(engine, text), [seed], max_tokens=5) for seed, text in enumerate("abcde")]
        alone = [engine.sample([each])[0] for each in requests]
        assert engine.sample(requests) == alone
        assert engine.sample(requests[::-1]) == alone[::-1]
        assert [make().sample([each])[0] for each in requests[:2]] == alone[:2]

    def test_other_seeds_sample_other_texts(self, make: Callable[[], Engine]) -> None:
        engine = make()
        (samples,) = engine.sample([Request(_prompt(engine), list(range(16)), max_tokens=6)])
        assert len({tuple(each.tokens) for each in samples}) > 1

    def test_its_log_probabilities_are_those_of_what_it_samples(self, make: Callable[[], Engine]) -> None:
        engine = make()
        traces = [each for _, each in _traces(engine, free(engine))]
        self._match(engine, traces)

    def test_a_choice_is_one_of_those_given_and_counts_where_there_was_one(self, make: Callable[[], Engine]) -> None:
        engine = make()
        if "constrain" not in engine.can:
            pytest.skip("it does not constrain")
        request = Request(_prompt(engine), list(range(12)), max_tokens=40, choices=CHOICES)
        sampled = _traces(engine, request)
        assert {each.text for each, _ in sampled} <= set(CHOICES)
        for each, _ in sampled:
            assert each.allowed is not None
            for token, entry, logprob, ids in zip(each.tokens, each.mask, each.logprobs, each.allowed, strict=True):
                assert entry or logprob == 0, "a token that was forced has a log-probability"
                assert ids is None or token in ids
        self._match(engine, [trace for _, trace in sampled])

    def _match(self, engine: Engine, traces: Sequence[Trace]) -> None:
        """Log-probabilities at sampling and now are the same."""
        for trace, row in zip(traces, engine.logprobs(traces), strict=True):
            assert len(row) == len(trace.tokens)
            for mask, then, now in zip(trace.mask, trace.logprobs, row, strict=True):
                assert now == pytest.approx(then if mask else 0, abs=self.tolerance)
        assert engine.check(traces) <= self.tolerance

    def test_a_gradient_moves_nothing_before_the_step(self, make: Callable[[], Engine]) -> None:
        engine = self._trainable(make)
        data = _data(engine)
        before, digest = engine.logprobs([each.trace for each in data]), engine.digest()
        watched = engine.forward_backward(data, LOSS, {})
        assert watched["tokens"] == sum(sum(each.trace.mask) for each in data)
        assert engine.digest() == digest
        assert engine.logprobs([each.trace for each in data]) == before

    def test_a_step_makes_what_has_an_advantage_likelier(self, make: Callable[[], Engine]) -> None:
        engine = self._trainable(make)
        data = _data(engine)
        before, digest = _likelihood(engine, data), engine.digest()
        engine.forward_backward(data, LOSS, {})
        engine.optim_step()
        assert engine.digest() != digest
        assert not self.learns or _likelihood(engine, data) > before

    def test_a_snapshot_brings_back_weights_and_what_they_sample(
        self, make: Callable[[], Engine], tmp_path: Path
    ) -> None:
        engine = self._trainable(make)
        data = _data(engine)
        engine.forward_backward(data, LOSS, {})
        engine.optim_step()
        digest, sampled = engine.digest(), engine.sample([free(engine)])
        saved = engine.save(tmp_path / "snapshot")
        assert re.fullmatch("[0-9a-f]{64}", saved), "the name of a snapshot is a SHA-256 in hexadecimal"
        engine.forward_backward(data, LOSS, {})
        engine.optim_step()
        assert engine.digest() != digest
        for each in (engine, make()):
            each.load(tmp_path / "snapshot")
            assert each.digest() == digest
            assert each.sample([free(each)]) == sampled
            assert each.save(tmp_path / f"again-{id(each)}") == saved

    def _trainable(self, make: Callable[[], Engine]) -> Engine:
        engine = make()
        if not {"train", "custom_loss"} <= engine.can:
            pytest.skip("it does not train with a loss of a learner's own")
        return engine


def policy_gradient(
    logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """-A log p over sampled tokens, of tensors of any library; the critic, if there is one, learns nothing."""
    mask_BT = batch.mask_BT
    scalar = -(batch.advantages_BT * logprobs_BT * mask_BT).sum() / batch.normaliser
    return scalar, {"tokens": mask_BT.sum()}


def free(engine: Engine) -> Request:
    """A request without a constraint."""
    return Request(_prompt(engine), list(range(6)), max_tokens=6)


def _prompt(engine: Engine, text: str = "Which one?") -> list[int]:
    return engine.tokens.render([{"role": "user", "content": text}])


def _traces(engine: Engine, request: Request) -> list[tuple[Sampled, Trace]]:
    (samples,) = engine.sample([request])
    return [(each, each.trace(request.prompt)) for each in samples]


def _data(engine: Engine) -> list[Datum]:
    """The first sample is to become likelier, the others less so."""
    traces = [replace(trace, values=None) for _, trace in _traces(engine, free(engine))]
    weights = [1.0, *[-0.1] * (len(traces) - 1)]
    rows = [[weight * each for each in trace.mask] for weight, trace in zip(weights, traces, strict=True)]
    return [Datum(trace, row, float(len(traces))) for trace, row in zip(traces, rows, strict=True)]


def _likelihood(engine: Engine, data: Sequence[Datum]) -> float:
    """The advantage-weighted log-likelihood."""
    now = engine.logprobs([datum.trace for datum in data])
    return sum(sum(map(mul, datum.advantages, row)) for datum, row in zip(data, now, strict=True))
