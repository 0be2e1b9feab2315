"""Defaults by policy, each with its reason beside it in the source."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_policies import small_tiny

from sia_torch.defaults import learning_rate_of, rollouts_of
from sia_torch.engine import Torch
from sia_torch.settings import Settings


@pytest.mark.parametrize(("width", "rate"), [(64, 5e-4), (576, 5e-4), (2880, 1.4e-4), (8192, 6.3e-5)])
def test_a_wider_model_learns_more_slowly(width: int, rate: float) -> None:
    assert learning_rate_of("hf:some", width) == pytest.approx(rate, rel=0.02)


def test_tiny_keeps_its_own(model_folder: Callable[[str], Path]) -> None:
    tiny = small_tiny()
    assert (tiny.learning_rate, tiny.rollouts, tiny.settings.temperature) == (3e-3, 0, 1.0)
    real = Torch(policy=f"hf:{model_folder('llama')}", rank=4)
    assert (real.learning_rate, real.rollouts, real.settings.temperature) == (5e-4, 1280, 0.7)
    assert rollouts_of("smollm2") == 1280


def test_the_temperature_is_the_users_first_and_the_policys_then() -> None:
    assert Settings(policy="smollm2").temperature == 0.7
    assert Settings.model_validate({"policy": "smollm2", "temperature": "0.9"}).temperature == 0.9
    assert Settings(policy="hf:openai/gpt-oss-20b", chat="harmony").temperature == 1.0


def test_a_real_model_on_a_cpu_trains_in_less_memory_at_once() -> None:
    assert Settings(policy="smollm2", device="cpu").micro_tokens == 2048
    assert Settings(policy="smollm2", device="cuda").micro_tokens == 8192
    assert Settings(policy="tiny", device="cpu").micro_tokens == 8192
    assert Settings.model_validate({"policy": "smollm2", "device": "cpu", "micro_tokens": "512"}).micro_tokens == 512


def test_threads_that_wait_do_not_spin_unless_the_user_says_so() -> None:
    script = "import os, sia_torch; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"

    def words(**more: str) -> str:
        environment = {
            key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        }
        result = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **more}, capture_output=True, check=True
        )
        return result.stdout.decode().strip()

    assert words() == "PASSIVE 0"
    assert words(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE 0"
