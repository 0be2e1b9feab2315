"""The distribution as SIA sees it: light, complete, small."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sia_algorithms
from sia_algorithms.plugin import sia_algorithms as offers
from sia_core.evidence import Rollout, reward_stats
from sia_core.learning import Learner

NAMES = ["ppo", "grpo", "entropic", "reinforce", "dpo", "best-of-n"]


def factory(name: str) -> type:
    (path,) = [offer.factory for offer in offers() if offer.name == name]
    result: type = pkgutil.resolve_name(path)
    return result


def test_the_six_are_offered() -> None:
    assert [offer.name for offer in offers()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_learner_with_a_loss_that_no_service_has(name: str) -> None:
    learner = factory(name)()
    assert isinstance(learner, Learner)
    assert {"train", "custom_loss"} <= learner.needs


@pytest.mark.parametrize(("rewarded", "group"), [(16, 8), (2, 8), (1, 16), (0, 64)])
def test_entropic_asks_for_groups_that_hold_a_reward(rewarded: int, group: int) -> None:
    rollouts = [Rollout("an instance", "ok", float(number < rewarded)) for number in range(16)]
    assert factory("entropic")().training(reward_stats(rollouts, 0.0)).group == group


@pytest.mark.real
def test_the_entry_module_is_light() -> None:
    script = (
        "import sys, sia_algorithms.plugin; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_learner_is_at_most_300_lines() -> None:
    folder = Path(sia_algorithms.__file__).parent
    assert {file.name: n for file in folder.glob("*.py") if (n := len(file.read_text().splitlines())) > 300} == {}
