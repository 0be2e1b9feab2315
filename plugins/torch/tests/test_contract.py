"""The engine keeps the contract of engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sia_testing.engine_contract import EngineContract
from sia_torch.engine import Torch


class TestTorch(EngineContract):
    @pytest.fixture
    def make(self) -> Callable[[], Torch]:
        return lambda: Torch(policy="tiny", tiny={"hidden_size": 32, "buckets": 512})
