"""The contract of learners, for plugin authors to inherit. Its tensors are torch's; without torch half of it skips."""

from __future__ import annotations

import math
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sia_core.decision import Training
from sia_core.errors import NoSignal, TrainingError, UsageError
from sia_core.evidence import Rollout, reward_stats
from sia_core.learning import Batch, Datum, Learner, Loss, Sample, Trace, credited

NEEDS = frozenset({"train", "values", "reference", "custom_loss", "constrain"})
REWARDS = ((0.0, 1.0, 0.25, 0.5), (1.0, 0.0, 0.125, 0.75), (0.0, 0.0, 0.0, 0.0))
EXTREME = (
    (1e300, 0.0, 1.0, 0.5),
    (-1e300, 0.0, 1.0, 0.5),
    (1.7e308, -1.7e308, 1.7e308, 0.0),
    (1e300, 1e300 * (1 + 1e-15), 1e300, 1e300),
    (1e100, -1e100, 1e-320, 0.0),
    (1e14, -1e14, 0.0, 1.0),
    (1e-320, 0.0, 5e-324, 0.0),
    (-1e-320, 0.0, 1e-310, 0.0),
    (math.inf, 0.0, 1.0, 0.5),
    (-math.inf, 0.0, 1.0, 0.5),
    (math.nan, 0.0, 1.0, 0.5),
)
"""Rewards of a group that a verifier without bounds may give, and some that none may."""

VOCABULARY = 11
OFF_POLICY = 0.05
"""How far the policy has moved on from the sampler, in nats: no clip stops a gradient there."""

Tokens = tuple[int, ...]
Rows = dict[tuple[str, Tokens], list[float]]
"""Gradients at what the policy says of a trace: its ``logprobs``, or its ``values``."""


class LearnerContract:
    """``class TestMine(LearnerContract)`` with a fixture ``make``: ``make()`` gives the learner."""

    def test_it_has_every_part_of_a_learner(self, make: Callable[[], Learner]) -> None:
        learner = make()
        assert isinstance(learner, Learner)
        assert issubclass(learner.Config, BaseModel)
        assert learner.needs <= NEEDS
        assert "train" in learner.needs
        assert isinstance(learner.epochs, int)
        assert learner.epochs >= 1
        assert callable(named(learner.loss))

    def test_its_settings_survive_json_and_a_misspelt_one_is_refused(self, make: Callable[[], Learner]) -> None:
        learner = make()
        settings = learner.config.model_dump(mode="json")
        assert learner.Config.model_validate(settings) == learner.config
        with pytest.raises((ValidationError, TypeError, UsageError)):
            _factory(learner)(a_setting_of_nobody=1)

    def test_it_says_how_it_is_trained_and_what_it_would_not_learn_from(self, make: Callable[[], Learner]) -> None:
        learner = make()
        stats = reward_stats([Rollout(f"i{n % 8}", "ok", float(n % 3 == 0)) for n in range(64)], 0.0)
        assert isinstance(learner.training(stats), Training)
        assert all(isinstance(each, str) and each for each in learner.objections(stats))

    def test_where_nothing_was_earned_there_is_no_signal(self, make: Callable[[], Learner]) -> None:
        with pytest.raises(NoSignal):
            make().credit(rollouts(((0.0,) * 4, (0.0,) * 4)))

    @pytest.mark.parametrize("rewards", EXTREME, ids=str)
    def test_rewards_of_any_size_are_refused_or_give_a_gradient_in_single_precision(
        self, make: Callable[[], Learner], rewards: Sequence[float]
    ) -> None:
        learner = make()
        try:
            data = credited(learner, rollouts((rewards, REWARDS[0])))
        except TrainingError:
            return
        assert data
        rows = gradients(learner, data, precision="float32")
        assert all(math.isfinite(value) for row in rows.values() for value in row), "a gradient is not a finite number"

    def test_only_tokens_that_the_policy_sampled_get_credit(self, make: Callable[[], Learner]) -> None:
        data = make().credit(rollouts(REWARDS))
        assert data
        assert len({datum.normaliser for datum in data}) == 1
        for datum in data:
            assert len(datum.advantages) == len(datum.trace.tokens)
            assert all(map(math.isfinite, datum.advantages))
            unsampled = [a for a, m in zip(datum.advantages, datum.trace.mask, strict=True) if not m]
            assert not any(unsampled), "a token that the policy did not sample has an advantage"

    def test_credit_is_pure(self, make: Callable[[], Learner]) -> None:
        learner, groups = make(), rollouts(REWARDS)
        assert learner.credit(groups) == learner.credit(rollouts(REWARDS))
        assert groups == rollouts(REWARDS)

    def test_what_stands_where_nothing_was_sampled_changes_nothing(self, make: Callable[[], Learner]) -> None:
        learner = make()
        data = learner.credit(rollouts(REWARDS))
        clean, noisy = gradients(learner, data), gradients(learner, data, unsampled=math.nan)
        assert_same(noisy, clean)
        for (_, tokens), row in clean.items():
            mask = next(datum.trace.mask for datum in data if tuple(datum.trace.tokens) == tokens)
            assert not any(g for g, m in zip(row, mask, strict=True) if not m), "an unsampled token has a gradient"

    def test_the_order_of_groups_and_rollouts_changes_no_gradient(self, make: Callable[[], Learner]) -> None:
        learner, groups = make(), rollouts(REWARDS)
        expected = gradients(learner, learner.credit(groups))
        for seed in range(3):
            rng = random.Random(seed)
            shuffled = [rng.sample(group, len(group)) for group in rng.sample(groups, len(groups))]
            assert_same(gradients(learner, learner.credit(shuffled)), expected)

    def test_the_order_of_the_data_changes_no_gradient(self, make: Callable[[], Learner]) -> None:
        learner = make()
        data = learner.credit(rollouts(REWARDS))
        mixed = random.Random(0).sample(data, len(data))  # the sides of a pair need not stand side by side
        assert_same(gradients(learner, mixed), gradients(learner, data))

    def test_a_split_into_micro_batches_changes_no_gradient(self, make: Callable[[], Learner]) -> None:
        learner = make()
        data = learner.credit(rollouts(REWARDS))
        assert_same(gradients(learner, data, apart=True), gradients(learner, data))

    def test_padding_changes_no_gradient(self, make: Callable[[], Learner]) -> None:
        learner = make()
        data = learner.credit(rollouts(REWARDS))
        assert_same(gradients(learner, data, length=40), gradients(learner, data))

    def test_the_best_rollout_becomes_likelier_than_the_worst(self, make: Callable[[], Learner]) -> None:
        learner, groups = make(), rollouts(REWARDS[:1])
        rows = gradients(learner, learner.credit(groups))
        best, worst = (
            sum(sum(rows.get(("logprobs", tuple(trace.tokens)), ())) for trace in pick(groups[0], key=_reward).traces)
            for pick in (max, min)
        )
        assert best < worst, "a step down its gradient prefers the worst rollout to the best"


def _reward(sample: Sample) -> float:
    return sample.reward


def named(name: str) -> Loss:
    """A loss by its name, as an engine imports it."""
    loss: Loss = pkgutil.resolve_name(name)
    return loss


def rollouts(rewards: Sequence[Sequence[float]], seed: int = 0) -> list[list[Sample]]:
    """A group for each list of rewards: random rollouts of two turns, with all that a learner may need."""
    rng = random.Random(seed)
    groups = []
    for number, earned in enumerate(rewards):
        group = []
        for place, reward in enumerate(earned):
            mask = [0] * rng.randint(1, 3) + [1] * rng.randint(2, 4) + [0] + [1] * rng.randint(1, 3)
            # The first tokens name the rollout, so that no two traces are alike.
            tokens = [VOCABULARY + 10 * number + place, *(rng.randrange(VOCABULARY) for _ in mask[1:])]
            logprobs = [-rng.uniform(0.5, 2) * each for each in mask]
            trace = Trace(tokens, mask, logprobs, values=[0.0] * len(mask), reference=logprobs)
            group.append(Sample(f"instance {number}", "agent", reward, [trace]))
        groups.append(group)
    return groups


def gradients(
    learner: Learner,
    data: Sequence[Datum],
    *,
    unsampled: float = 0.5,
    apart: bool = False,
    length: int | None = None,
    precision: str = "float64",
) -> Rows:
    """The gradient of the learner's loss at each log-probability and value, of all its data together."""
    torch: Any = pytest.importorskip("torch")

    def floats(rows: list[Any]) -> Any:
        return torch.tensor(rows, dtype=getattr(torch, precision))

    total: Rows = {}
    for part in _pairs_together(data) if apart else [list(data)]:
        batch = Batch.of(part, torch.tensor, floats, length)
        hidden = torch.full_like(batch.mask_BT, unsampled)
        now_BT = torch.where(batch.mask_BT > 0, batch.old_logprobs_BT - OFF_POLICY, hidden).requires_grad_()
        values_BT = torch.where(batch.mask_BT > 0, torch.zeros_like(hidden), hidden).requires_grad_()
        scalar, _ = named(learner.loss)(now_BT, batch, values_BT, _settings(learner))
        assert bool(torch.isfinite(scalar)), "the loss is not a finite number"
        scalar.backward()
        for kind, said_BT in (("logprobs", now_BT), ("values", values_BT)):
            gradient_BT = torch.zeros_like(said_BT) if said_BT.grad is None else said_BT.grad
            for datum, row in zip(part, gradient_BT.tolist(), strict=True):
                tokens = tuple(datum.trace.tokens)
                before = total.get((kind, tokens), [0.0] * len(tokens))
                total[kind, tokens] = [a + b for a, b in zip(before, row[: len(tokens)], strict=True)]
    return total


def _factory(learner: Learner) -> Callable[..., Any]:
    return type(learner)


def _settings(learner: Learner) -> Mapping[str, Any]:
    return learner.config.model_dump(mode="json")


def _pairs_together(data: Sequence[Datum]) -> list[list[Datum]]:
    units: dict[object, list[Datum]] = {}
    for number, datum in enumerate(data):
        units.setdefault(("alone", number) if datum.pair is None else datum.pair, []).append(datum)
    return list(units.values())


def assert_same(one: Rows, other: Rows) -> None:
    """The same gradients for every trace; one without any may be missing on either side."""
    for kind, tokens in {*one, *other}:
        zeros = [0.0] * len(tokens)
        row = other.get((kind, tokens), zeros)
        assert one.get((kind, tokens), zeros) == pytest.approx(row, rel=1e-9, abs=1e-12)
