"""Results of workers that look at rewards and train: a false one is refused before it is recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sia_core.decision import Training
from sia_core.errors import LedgerError, SiaError
from sia_core.evidence import Rollout, reward_stats
from sia_core.run.ledger import Ledger
from sia_core.run.levers import LeverRun
from sia_core.run.record import training
from sia_core.run.trees import ADAPTERS
from sia_core.types import OfferRef
from sia_weights.lever import WeightLever
from sia_weights.past import _facts
from sia_weights.replies import exploration_of, reply, training_of
from sia_weights.update import Update

ROLLOUT = Rollout(instance="one", outcome="ok", reward=1.0, answer="2")
LOOK: dict[str, Any] = {
    "stats": asdict(reward_stats([ROLLOUT, ROLLOUT], 0.0)),
    "fault": "",
    "rollouts": 2,
    "verifications": 2,
    "tokens": 31.5,
    "seconds": 0.25,
    "pass_seconds": 1e-4,
    "memory": 1e9,
    "trained": {"ppo": 1.0},
    "peak": 40,
    "short": 0,
    "suits": 1280,
    "policy": {"name": "tiny", "context": None},
}
FIGURES = {
    "rollouts": 8,
    "verifications": 8,
    "tokens": 90,
    "reward": 0.5,
    "seconds": 1.5,
    "kl": 0.1,
    "flat_groups": None,
}
TRAINING: dict[str, Any] = {
    "adapter": "a" * 64,
    "stopped": "",
    "steps": [{"step": 4, **FIGURES}, {"step": 5, **FIGURES, "silent": "no reward", "found": [ROLLOUT.to_json()]}],
    "silent": 1,
    "seconds": 3.0,
    "memory": {"needed": 1e9, "peak": 1e9},
}
trained = partial(training_of, first=4, last=6)


def changed(value: dict[str, Any], path: tuple[Any, ...], other: Any) -> dict[str, Any]:
    value = copy.deepcopy(value)
    inner = value
    for each in path[:-1]:
        inner = inner[each]
    inner[path[-1]] = other
    return value


def test_results_of_honest_workers_pass() -> None:
    assert exploration_of(LOOK).stats.mean == 1.0
    assert reply(lambda: TRAINING, trained) == TRAINING
    assert reply(lambda: {**TRAINING, "steps": TRAINING["steps"][:1]}, trained)["adapter"] == "a" * 64


@pytest.mark.parametrize(
    ("path", "other", "why"),
    [
        (("rollouts",), -5, "rollouts=-5"),
        (("rollouts",), 2.5, "rollouts=2.5"),
        (("tokens",), 1e300, "tokens=1e\\+300"),
        (("tokens",), float("inf"), "tokens=inf"),
        (("seconds",), float("nan"), "seconds=nan"),
        (("stats",), [1], "stats"),
        (("stats", "density"), "high", "stats, density=high"),
        (("stats", "density"), 7.0, "density is not between 0 and 1"),
        (("stats", "mean"), 10**400, "mean is not between"),
        (("stats", "instances"), -3, "instances is not between"),
        (("stats", "group_size"), -1.0, "group_size is not between"),
        (("stats", "skew"), float("nan"), "skew is not between"),
        (("trained",), {"ppo": None}, "trained, ppo"),
        (("fault",), None, "fault"),
        (("peak",), True, "peak"),
    ],
)
def test_a_false_look_at_rewards_is_refused(path: tuple[str, ...], other: object, why: str) -> None:
    false = changed(LOOK, path, other)
    with pytest.raises(SiaError, match=f"^a worker's reply is false: the result of a look at rewards.*{why}"):
        reply(lambda: false, exploration_of)


@pytest.mark.parametrize(
    ("path", "other", "why"),
    [
        (("adapter",), "../../home", "adapter"),
        (("adapter",), 7, "adapter"),
        (("steps",), None, "steps"),
        (("steps", 0, "step"), 3, "has the steps \\[3, 5\\]"),
        (("steps", 0, "rollouts"), -1, "rollouts=-1"),
        (("steps", 1, "tokens"), 2**60, "tokens"),
        (("steps", 1, "reward"), "much", "reward=much"),
        (("steps", 1, "kl"), {"a": 1}, "kl"),
        (("steps", 0, "reward"), 1.7e308, "reward"),
        (("steps", 0, "reward"), 10**400, "reward"),
        (("steps", 0, "loss"), 10**400, "loss"),
        (("steps", 1, "found", 0, "answer"), "{{", "a rollout is recorded which no run records"),
        (("steps", 1, "found"), [{"instance": "one"}], "a rollout is recorded which no run records"),
        (("silent",), None, "silent"),
        (("memory", "peak"), "9", "memory, peak=9"),
        (("further",), 1, "further"),
    ],
)
@pytest.mark.parametrize("refusal", [trained, partial(reply, check=trained)], ids=["recorded", "on its way"])
def test_false_training_is_refused(refusal: Callable[..., Any], path: tuple[Any, ...], other: object, why: str) -> None:
    false = changed(TRAINING, path, other)
    with pytest.raises(SiaError, match=why):
        refusal(false if refusal is trained else lambda: false)


@pytest.mark.parametrize("other", [None, [], "done", 7, {"steps": object()}])
def test_a_result_that_is_none_at_all_is_refused(other: object) -> None:
    for check in (exploration_of, trained):
        with pytest.raises(LedgerError, match="the result of"):
            check(other)


def test_a_step_whose_movement_is_not_known_is_no_obstacle_to_the_facts_of_its_update() -> None:
    facts = _facts({"config": {}, "training": {}}, [{"reward": 0.0, "kl": None}, {"reward": 1.0, "kl": 0.1}])
    assert facts["moved"] == 0.1


def test_a_snapshot_that_another_step_of_the_run_names_is_not_removed(tmp_path: Path) -> None:
    lever, own, others = WeightLever(), "a" * 64, "c" * 64
    update = Update("generation/1/train/0", "p", "0" * 64, None, OfferRef("grpo"), Training(), (), ())
    with Ledger.create(tmp_path / "run") as ledger:
        lever.run = cast(LeverRun, SimpleNamespace(ledger=ledger))
        for name in (own, others):
            (tmp_path / "run" / ADAPTERS / name).mkdir(parents=True)
        ledger.record(training("generation/0/train/0", 0), {**TRAINING, "adapter": others})
        ledger.record(training(update.key, 0), {**TRAINING, "adapter": own})
        named = lever._others(update)
        assert named == {others}
        for name in (own, others):
            lever._drop(name, named)
    assert [each.name for each in (tmp_path / "run" / ADAPTERS).iterdir()] == [others]
